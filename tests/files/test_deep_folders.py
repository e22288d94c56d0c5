"""Folders in one another, more than a function may call itself: what looks through them does not."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from axon.data.listing import read_listing
from axon.data.versions import tree_md5
from axon.errors import AxonError
from axon.files import files_below, walked
from axon.pretrained import verify
from axon.readers.film_studies import film_files
from axon.readers.layouts.walk import walk

DEEP = 300


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    bottom = tmp_path.joinpath("top", *["a"] * DEEP)
    bottom.mkdir(parents=True)
    (bottom / "x.nii").write_bytes(b"1")
    (tmp_path / "top" / "model_index.json").write_text("{}")
    (tmp_path / "top" / "studies.json").write_text("[]")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    yield tmp_path / "top"
    sys.setrecursionlimit(before)


@pytest.mark.parametrize("look", [files_below, walk, film_files, read_listing, tree_md5, verify])
def test_folders_deep_in_one_another_are_looked_through(deep: Path, look: Callable[[Path], object]) -> None:
    look(deep)


def test_the_deepest_file_is_found_and_links_are_not_followed(deep: Path) -> None:
    (deep / "link").symlink_to(deep)
    assert files_below(deep)[0] == deep.joinpath(*["a"] * DEEP, "x.nii") and len(files_below(deep)) == 3


def test_what_is_walked_is_what_the_system_s_own_walk_gives(tmp_path: Path) -> None:
    for name in ("b/c", "a/d", "a/e", "b/a"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x").touch()
    assert list(walked(tmp_path)) == list(os.walk(tmp_path))


def test_a_list_of_studies_deep_in_itself_is_a_code(tmp_path: Path) -> None:
    (tmp_path / "studies.json").write_text("[" * 100_000)
    with pytest.raises(AxonError, match="DATASET_DAMAGED"):
        read_listing(tmp_path)
