"""A folder whose names may be listed, and which may not be searched: what is in it costs itself alone.

Root may do anything: as root, the tests look at it as another user.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from axon.readers.film_studies import film_files
from axon.readers.layouts.walk import walk


@pytest.fixture
def unsearchable() -> Iterator[Path]:
    """A folder with a film, and one that nobody may search, though its names may be listed; seen as another user."""
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch)
        for name in ("film.png", "closed/film.png", "closed/inner/film.png", "open/film.png"):
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes(b"1")
        top.chmod(0o755)
        (top / "closed").chmod(0o744)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        else:
            (top / "closed").chmod(0o644)
        try:
            yield top
        finally:
            if root:
                os.seteuid(0)
            (top / "closed").chmod(0o755)


def test_a_folder_that_may_be_listed_and_not_searched_costs_itself(unsearchable: Path) -> None:
    files, passed = walk(unsearchable)
    assert [path.relative_to(unsearchable).as_posix() for path in files] == ["film.png", "open/film.png"]
    whys = {one.path.relative_to(unsearchable).as_posix(): one.why for one in passed}
    assert whys.keys() == {"closed/film.png", "closed/inner"} and all(
        "Permission denied" in why for why in whys.values()
    )


def test_a_film_that_may_not_be_looked_at_is_left_to_its_reader(unsearchable: Path) -> None:
    found = [path.relative_to(unsearchable).as_posix() for path in film_files(unsearchable)]
    assert found == ["closed/film.png", "film.png", "open/film.png"]
