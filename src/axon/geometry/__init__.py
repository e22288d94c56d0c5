"""Where things are: volumes in patient coordinates, the X-ray's cone beam, films on the detector, consistency
with them.

Differentiable and exact; no network, no files.
"""
