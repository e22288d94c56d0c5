"""Ingestion over several processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import axon.data.ingest
from axon.config import Config
from axon.data.ingest import ingest
from axon.data.packed import write_nifti
from axon.data.phantoms import make_phantom


def test_processes_give_what_one_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw").mkdir()
    chest = make_phantom(3, size=30, spacing_mm=12.0)
    for number in range(3):
        write_nifti(tmp_path / "raw" / f"case{number}.nii", chest)
    (tmp_path / "raw" / "bad.nii").write_bytes(b"broken")
    ingest(tmp_path / "raw", 0, 1, Config(), tmp_path / "one")
    monkeypatch.setattr(axon.data.ingest, "_STUDIES_A_WORKER", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    ingest(tmp_path / "raw", 0, 1, Config(), tmp_path / "two")
    for path in sorted((tmp_path / "one").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), path.name
