"""Archives: what is in them comes out, and nothing that an archive says makes a file elsewhere or fills the disk."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest

from axon.errors import AxonError
from axon.readers import child
from axon.readers.archives import Bounds, extracted, is_archive, unpack_here
from axon.readers.child import given_up_by


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes], mode: str = "w:gz", **changes: object) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in changes.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return path


FILES = {"a/1.dcm": b"one", "a/b/2.dcm": b"two", "3": b""}


@pytest.mark.parametrize("pack", [zipped, tarred], ids=["zip", "tar.gz"])
def test_the_files_are_there_for_as_long_as_they_are_read(pack, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = pack(tmp_path / "archive", FILES)
    assert is_archive(path)
    with extracted(path) as folder:
        found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == FILES and not folder.exists()


@pytest.mark.parametrize("mode", ["w", "w:bz2", "w:xz"])
def test_every_common_tar_is_one(mode: str, tmp_path: Path) -> None:
    with extracted(tarred(tmp_path / "archive", FILES, mode)) as folder:
        assert (folder / "a/b/2.dcm").read_bytes() == b"two"


def test_other_files_are_no_archives(tmp_path: Path) -> None:
    for content in (b"", b"text", gzip.compress(b"n" * 1000)):
        (tmp_path / "x").write_bytes(content)
        assert not is_archive(tmp_path / "x")
    with pytest.raises(AxonError, match="ARCHIVE_UNREADABLE"), extracted(tmp_path / "x"):
        pass


@pytest.mark.parametrize("pack", [zipped, tarred], ids=["zip", "tar.gz"])
@pytest.mark.parametrize("name", ["../out", "a/../../out", "/tmp/out-of-it", "..\\out", "C:\\out"])
def test_a_path_outside_is_refused(pack, name: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(AxonError, match="ARCHIVE_UNSAFE") as error, extracted(pack(tmp_path / "x", {name: b"1"})):
        pass
    assert "out-of-it" not in str(error.value) and [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_special_files_are_passed_over(kind: bytes, tmp_path: Path) -> None:
    with extracted(tarred(tmp_path / "x", {"link": b""}, type=kind, linkname="/etc/passwd")) as folder:
        assert list(folder.iterdir()) == []


def test_a_link_in_a_zip_is_passed_over(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("film", b"1")
    with extracted(tmp_path / "x") as folder:
        assert [path.name for path in folder.iterdir()] == ["film"]


@pytest.mark.parametrize("pack", [zipped, tarred], ids=["zip", "tar.gz"])
def test_too_many_bytes_or_files_are_refused(pack, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bomb = pack(tmp_path / "x", {"a": bytes(5_000_000), "b": bytes(5_000_000)})
    assert bomb.stat().st_size < 50_000
    with extracted(bomb, max_bytes=10_000_000):
        pass
    with pytest.raises(AxonError, match="ARCHIVE_TOO_LARGE"), extracted(bomb, max_bytes=9_999_999):
        pass
    with pytest.raises(AxonError, match="ARCHIVE_TOO_LARGE"), extracted(bomb, max_files=1):
        pass


def test_a_tar_whose_own_header_says_gigabytes_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 5 * 2**30
    (tmp_path / "x").write_bytes(header.tobuf() + bytes(4096))
    with pytest.raises(AxonError, match="ARCHIVE_UNREADABLE"), extracted(tmp_path / "x"):
        pass


TELLS = (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.GNUTYPE_SPARSE)


@pytest.mark.parametrize("kind", TELLS)
def test_a_zipped_tar_whose_header_unpacks_to_a_quarter_of_a_gigabyte_costs_nothing(
    kind: bytes, tmp_path: Path
) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = kind, 2**28
    block = bytearray(header.tobuf())
    block[482] = 1  # where a map of holes goes on in the next block
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
    with gzip.open(tmp_path / "x", "wb", 1) as file:
        file.write(block)
        for _ in range(256):
            file.write(b"1" * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(AxonError, match="ARCHIVE_UNREADABLE"):
            unpack_here([tmp_path / "x"], Bounds(str(tmp_path / "out"), 2**30, 100))
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


def slow_to_pass_over(path: Path) -> Path:
    """Eight gigabytes of a member of no known kind, in a few kilobytes."""
    member = tarfile.TarInfo("a")
    member.type, member.size = b"Z", 2**33 - 512
    path.write_bytes(bz2.compress(member.tobuf()) + bz2.compress(bytes(2**24)) * 512)
    return path


@pytest.mark.slow
def test_who_no_longer_wants_an_archive_ends_its_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class GoneError(Exception):
        pass

    def gone() -> None:
        if time.monotonic() > began + 0.5:
            raise GoneError

    monkeypatch.setattr(child, "_idle", [])
    path, began = slow_to_pass_over(tmp_path / "x"), time.monotonic()
    assert is_archive(path)
    with given_up_by(gone), pytest.raises(GoneError), extracted(path):
        pass
    assert time.monotonic() - began < 10 and not child._idle
    with extracted(zipped(tmp_path / "y", FILES)) as folder:
        assert (folder / "3").is_file()


def test_what_is_passed_over_counts(tmp_path: Path) -> None:
    with pytest.raises(AxonError, match="ARCHIVE_TOO_LARGE"), extracted(slow_to_pass_over(tmp_path / "x"), 2**32):
        pass


@pytest.mark.slow
def test_time_to_unpack_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("axon.readers.archives.CPU_S", 1)
    monkeypatch.setattr(child, "_idle", [])
    with pytest.raises(AxonError, match="ARCHIVE_DECODER_DIED"), extracted(slow_to_pass_over(tmp_path / "x")):
        pass


def test_a_dictionary_of_gigabytes_is_not_made_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first byte of the filter's properties says how large it is (xz file format 1.2.0, 5.3.1)."""
    content = bytearray(lzma.compress(tarred(tmp_path / "x", FILES, "w").read_bytes()))
    content[16] = 40
    size = 4 * (content[12] + 1)
    content[8 + size : 12 + size] = zlib.crc32(content[12 : 8 + size]).to_bytes(4, "little")
    (tmp_path / "x").write_bytes(content)
    assert lzma.decompress(content, memlimit=2**33)
    monkeypatch.setattr(tarfile, "open", None)  # only of this process
    assert not is_archive(tmp_path / "x")
    with pytest.raises(AxonError, match=r"ARCHIVE_UNREADABLE.*MemoryError"), extracted(tmp_path / "x"):
        pass


def test_names_upon_names_are_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**13
    (tmp_path / "x").write_bytes((header.tobuf() + b"n" * 2**13) * 200)
    with pytest.raises(AxonError, match=r"ARCHIVE_UNREADABLE.*ReadError"), extracted(tmp_path / "x"):
        pass


@pytest.mark.parametrize("fact", ["uid", "comment"])
def test_a_number_without_end_is_refused_before_it_is_parsed(fact: str, tmp_path: Path) -> None:
    with (
        pytest.raises(AxonError, match=r"ARCHIVE_UNREADABLE.*ReadError"),
        extracted(tarred(tmp_path / "x", {"a": b""}, pax_headers={fact: "9" * 30_000})),
    ):
        pass


def test_what_a_tar_tells_of_each_file_is_not_kept(tmp_path: Path) -> None:
    facts = {f"{number:04}": "b" for number in range(300)}
    path = tarred(tmp_path / "x", {f"{number}": b"" for number in range(40)}, "w", pax_headers=facts)
    tracemalloc.start()
    try:
        unpack_here([path], Bounds(str(tmp_path / "out"), 2**30, 100))
        assert len(list((tmp_path / "out").iterdir())) == 40
        assert tracemalloc.get_traced_memory()[1] < 3 * 2**19
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("count", [100, 1000])
def test_what_a_tar_tells_of_all_files_at_once_is_bounded(count: int, tmp_path: Path) -> None:
    facts = {f"{number:04}": "b" for number in range(count)}
    with tarfile.open(tmp_path / "x", "w", pax_headers=facts) as archive:
        archive.addfile(tarfile.TarInfo("a"))
    with (
        contextlib.nullcontext() if count == 100 else pytest.raises(AxonError, match="ARCHIVE_UNREADABLE"),
        extracted(tmp_path / "x") as folder,
    ):
        assert [path.name for path in folder.iterdir()] == ["a"]


def test_a_file_larger_than_a_header_can_say_is_read(tmp_path: Path) -> None:
    """Its size and its name are in records, and the compressed file is read on behind them."""
    files = {"n" * 200: b"1" * 1000, "m" * 200: b"2" * 1000}
    with extracted(tarred(tmp_path / "x", files, pax_headers={"size": "1000", "mtime": "1.25"})) as folder:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


@pytest.mark.parametrize(
    "facts",
    [
        {"GNU.sparse.map": "0,1"},
        {"GNU.sparse.size": "1"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
    ],
)
def test_a_file_with_holes_is_refused(facts: dict[str, str], tmp_path: Path) -> None:
    with (
        pytest.raises(AxonError, match="ARCHIVE_UNREADABLE"),
        extracted(tarred(tmp_path / "x", {"a": b"1\n"}, pax_headers=facts)),
    ):
        pass


def test_long_names_are_read(tmp_path: Path) -> None:
    name = "/".join(["n" * 90] * 5)
    for number, form in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        with tarfile.open(tmp_path / f"{number}", "w", format=form) as archive:
            archive.addfile(tarfile.TarInfo(name))
        with extracted(tmp_path / f"{number}") as folder:
            assert (folder / name).is_file()


def test_damage_a_password_and_a_name_twice_have_their_code(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "x", {"a": bytes(range(256)) * 400}).read_bytes()
    spoilt = bytearray(whole)
    spoilt[40:60] = bytes(20)
    locked = bytearray(zipped(tmp_path / "y", {"a": b"1"}).read_bytes())
    for mark, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(mark) + flag] |= 1
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "z", "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")
    for content in (spoilt, locked, (tmp_path / "z").read_bytes(), whole[:-5]):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(AxonError, match="ARCHIVE_UNREADABLE"), extracted(tmp_path / "x"):
            pass


def test_an_error_of_the_reader_stays_its_own(tmp_path: Path) -> None:
    with pytest.raises(KeyError), extracted(zipped(tmp_path / "x", FILES)):
        raise KeyError
