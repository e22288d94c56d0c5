"""AXON: a 3D chest CT volume from one or two chest X-rays (research only, not a medical device)."""

__version__ = "0.2.0"

DISCLAIMER = "Research only. Not a medical device. Reconstructed anatomy may be hallucinated."
