"""The devices of this machine, for tests that compute on each."""

import torch

THERE = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
HERE = [name for name, there in THERE.items() if there]
