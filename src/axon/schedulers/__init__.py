"""The Brownian bridge as a diffusers scheduler.

Its module path is written in saved models: it does not move. The loop that samples with it is in
``models``, the loss in ``training``.
"""
