"""The networks, the calibrated lift, and sampling with them; intensities as networks see them; loading their folders.

Module paths of networks are written in saved models: they do not move. Losses and loops are in ``training``, and the
pipeline of all networks in ``inference``.
"""
