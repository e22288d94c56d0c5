"""The committed corpus has a small seed for every reader, and nothing of it is a find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.write_corpus import CORPUS, READERS, seeds

SEEDS = sorted(CORPUS.iterdir())


def test_every_reader_has_a_small_seed() -> None:
    contents = [path.read_bytes() for path in SEEDS]
    assert {content[0] for content in contents} == set(range(len(READERS)))
    assert max(map(len, contents)) < 2**15 and sum(map(len, contents)) < 2**18


def test_what_writes_the_corpus_has_a_seed_for_every_reader() -> None:
    assert seeds().keys() == set(READERS) and all(seeds().values())


@pytest.mark.slow
def test_the_fuzzer_takes_the_corpus(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    command = [sys.executable, "-m", "tests.fuzz.fuzz_dicom", str(tmp_path), str(CORPUS), "-runs=60", "-seed=1"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
