"""What steps of a local run are forked from: nothing in it is lost by a fork."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipelines.local import ROOT

pytestmark = pytest.mark.slow

LOOKED = """
import threading, traceback
from pathlib import Path
import torch
looked = []
for name in ("is_available", "device_count", "_lazy_init"):
    setattr(torch.cuda, name, lambda *_: looked.append("".join(traceback.format_stack()[-6:])) or 0)
from pipelines.forked import import_for
for component in Path("components").glob("*.py"):
    import_for(component.read_text())
import sys
assert {"mlflow", "axon.training.train", "axon.evaluation.evaluate"} <= set(sys.modules)
print(threading.enumerate(), *looked)
"""


def test_what_is_imported_beforehand_starts_no_thread_and_asks_for_no_gpu() -> None:
    done = subprocess.run([sys.executable, "-c", LOOKED], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("[<_MainThread(MainThread, started ") and done.stdout.count("\n") == 1, done.stdout
