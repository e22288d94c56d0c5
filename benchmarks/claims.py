"""What a benchmark's folder belongs to: results that lie there are used again by the same command, and by no other."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from axon import pretrained
from axon.config import Config
from axon.errors import require
from axon.files import write_json
from benchmarks.references import ReferenceBench

SETTINGS = "settings.json"


def claim(out: Path, now: Mapping[str, Any]) -> None:
    """See that OUT was begun with these settings. One that has no record yet gets it, and what lies there is believed.

    Raises:
        AxonError: ``BENCH_OTHER``, naming what differs.
    """
    held = out / SETTINGS
    if not held.is_file():
        write_json(held, dict(now))
        return
    then = json.loads(held.read_text())
    different = ", ".join(key for key in now if now[key] != then.get(key))
    fix = "name another folder with --out, or give what was given before"
    require(not different, "BENCH_OTHER", f"{out} was begun with other: {different}", fix)


def claim_of(given: argparse.Namespace, bench: ReferenceBench, modules: Sequence[ModuleType], **more: Any) -> None:
    """The same for a benchmark of references: its training patients, configuration and model, the code of its modules,
    and what more there is. Patients to measure on may become more.

    Raises:
        AxonError: ``BENCH_OTHER``; those of `axon.pretrained.folder_of`.
    """
    patients = [[study.case_id, *sorted(_sized(file) for file in study.files)] for study in bench.library]
    with pretrained.folder_of(given.model, given.tracking_uri) as (folder, _, _):
        model = pretrained.verify(folder)
    code = b"".join(Path(str(module.__file__)).read_bytes() for module in modules)
    known = {
        "data": hashlib.sha256(json.dumps(patients).encode()).hexdigest(),
        "config": Config.load(given.config).fingerprint(),
        "model": model,
        "code": hashlib.sha256(code).hexdigest(),
    }
    claim(given.out, known | more)


def _sized(file: Path) -> str:
    return f"{file.name} {file.stat().st_size}"
