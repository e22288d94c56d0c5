"""Methods that AXON is compared with: one file a method, its network, its loss and what it is fed.

The table of methods is `axon.baselines.methods`. They train with the loop and the samples of ``training``. How good
they are is measured in ``evaluation``.
"""
