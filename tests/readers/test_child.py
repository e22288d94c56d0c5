"""The child that reads: what it gives is what reading gives, its limits hold, and its end costs one case."""

from __future__ import annotations

import errno
import gc
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from axon.errors import AxonError
from axon.geometry.volume import Volume
from axon.readers import child
from axon.readers.child import apart
from axon.readers.films import Xray
from axon.readers.volumes import read_ct, read_here
from tests.support.hostile import nifti

pytestmark = pytest.mark.slow

# These run in the child, which finds them by name.
FILM = Xray(np.eye(3, dtype=np.float32), "frontal", 0.1 + 0.2, "image", (0.25, 0.5), "picture", ("é", "b"))


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find this file as ``test_child``; nobody else gets them."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(child, "_idle", [])


def named(function: object) -> object:
    """The function as the child will find it."""
    function.__module__ = "test_child"  # type: ignore[attr-defined]
    return function


@named
def film(_: list[Path]) -> Xray:
    logging.getLogger("axon.readers").warning("seen in the child")
    return FILM


@named
def crash(_: list[Path]) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@named
def leave(_: list[Path]) -> None:
    os._exit(3)


@named
def nonsense(_: list[Path]) -> None:
    for link in [found for found in gc.get_objects() if isinstance(found, socket.socket)]:
        link.sendall(child._LENGTH.pack(3, 0, False) + b"{{{")
    os._exit(4)


@named
def spin(_: list[Path]) -> None:
    while True:
        pass


@named
def sleep(_: list[Path]) -> None:
    time.sleep(60)


@named
def grow(_: list[Path]) -> Volume:
    try:
        return Volume(np.ones(child.MEMORY_BYTES, np.int8), np.eye(4))
    except MemoryError:
        raise AxonError("NO_ROOM", "as it should be", "nothing") from None


@named
def modules(_: list[Path]) -> Volume:
    assert "torch" not in sys.modules
    return Volume(np.zeros((0, 2, 2), np.int16), np.eye(4))


@named
def ahead(_: list[Path]) -> Volume:
    assert "json.tool" in sys.modules and not any(name.startswith("requests.") for name in sys.modules)
    return Volume(np.zeros((0, 2, 2), np.int16), np.eye(4))


@named
def full(_: list[Path]) -> Volume:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    return Volume(np.zeros((10, 10, 10), np.int16), np.eye(4))


@named
def many(files: list[Path]) -> Volume:
    """As many voxels as the file's name says, of that value."""
    return Volume(np.full((int(files[0].name), 1, 1), int(files[0].name) % 1000, np.int16), np.eye(4))


def code(read: object) -> str:
    with pytest.raises(AxonError) as error:
        apart("CT", read, [Path("x")])  # type: ignore[arg-type]
    return f"{error.value.code} {error.value.message}"


def test_a_volume_comes_back_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.nii").write_bytes(nifti())
    monkeypatch.chdir(tmp_path)
    ours, theirs = read_here([Path("x.nii")]), read_ct([Path("x.nii")])
    assert np.array_equal(ours.hu_DHW, theirs.hu_DHW) and np.array_equal(ours.affine, theirs.affine)
    assert theirs.hu_DHW.dtype == np.int16 and theirs.hu_DHW.flags.writeable


def test_an_answer_stays_as_it_was_when_others_come() -> None:
    """Small ones travel in a file that is used again, large ones in one of their own."""
    counts = (900, 8, child._SMALL // 2 + 1, 31)
    found = [apart("CT", many, [Path(str(count))]).hu_DHW for count in counts]  # type: ignore[arg-type]
    for count, hu_DHW in zip(counts, found, strict=True):
        assert hu_DHW.shape == (count, 1, 1) and (hu_DHW == count % 1000).all() and hu_DHW.flags.writeable


def test_every_field_of_a_film_comes_back_and_what_was_logged(caplog: pytest.LogCaptureFixture) -> None:
    found = apart("XRAY", film, [Path("x")])  # type: ignore[arg-type]
    assert np.array_equal(found.image_HW, FILM.image_HW) and found.image_HW.dtype == np.float32
    for name in ("view", "view_confidence", "view_source", "pixel_spacing_mm", "source", "notes"):
        assert getattr(found, name) == getattr(FILM, name)
    assert caplog.record_tuples == [("axon.readers", logging.WARNING, "seen in the child")]


def test_the_child_has_no_torch() -> None:
    assert apart("CT", modules, [Path("x")]).hu_DHW.shape == (0, 2, 2)  # type: ignore[arg-type]


def test_a_child_that_is_started_ahead_imports_what_it_is_told_and_serves_the_first_file() -> None:
    child.start("json.tool")
    (first,) = child._idle
    read: Any = ahead
    assert apart("CT", read, [Path("x")]).hu_DHW.shape == (0, 2, 2) and child._idle == [first]


@pytest.mark.parametrize(("read", "said"), [(crash, "SIGSEGV"), (leave, "status 3"), (nonsense, "status 4")])
def test_a_child_that_dies_costs_one_case(read: object, said: str, tmp_path: Path) -> None:
    assert code(read).startswith("CT_DECODER_DIED") and said in code(read)
    (tmp_path / "x.nii").write_bytes(nifti())
    assert read_ct([tmp_path / "x.nii"]).hu_DHW.shape == (30, 30, 30)


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "CPU_S", 1)
    monkeypatch.setattr(child, "CPU_S_A_FILE", 1)
    monkeypatch.setattr(child, "WALL", 20)
    assert "SIGXCPU" in code(spin)
    monkeypatch.setattr(child, "WALL", 1)
    began = time.monotonic()
    assert "too slow" in code(sleep) and time.monotonic() - began < 30


def test_memory_is_bounded() -> None:
    assert code(grow).startswith("NO_ROOM")


def test_a_user_s_own_limits_are_no_fault_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.nii").write_bytes(nifti())
    program = "import sys; from axon.readers.volumes import read_ct; print(read_ct([sys.argv[1]]).hu_DHW.shape)"
    limited = f"ulimit -t 50; ulimit -v 2800000; exec {sys.executable} -c '{program}' {tmp_path}/x.nii"
    found = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=False)
    assert found.stdout == "(30, 30, 30)\n", found.stderr


def test_no_room_for_the_answer_is_no_fault_of_the_file() -> None:
    with pytest.raises(OSError, match="large") as error:
        apart("CT", full, [Path("x")])  # type: ignore[arg-type]
    assert error.value.errno == errno.EFBIG


def test_one_child_serves_one_thread_at_a_time_and_is_used_again(tmp_path: Path) -> None:
    (tmp_path / "x.nii").write_bytes(nifti())
    shapes: list[tuple[int, ...]] = []
    threads = [
        threading.Thread(target=lambda: shapes.append(read_ct([tmp_path / "x.nii"]).hu_DHW.shape)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shapes == [(30, 30, 30)] * 4
    pids = {one.process.pid for one in child._idle}
    read_ct([tmp_path / "x.nii"])
    assert {one.process.pid for one in child._idle} == pids and 1 <= len(pids) <= 4
    child._end_all()
