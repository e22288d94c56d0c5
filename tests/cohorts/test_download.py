"""Fetching a cohort of real DICOM from a real S3 server, through a network that fails in every way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, as_completed
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config

from axon.cli import main
from axon.cohorts import objects
from axon.cohorts.download import download_cohort
from axon.cohorts.objects import Entry, Journal, S3Object, connect, download
from axon.cohorts.select import Cohort, Series
from axon.errors import AxonError
from axon.files import sha256_file
from axon.readers.layouts import find_studies
from axon.readers.volumes import read_ct
from tests.support.servers import Fault, Request, S3Server, faulty_proxy, s3_server

REAL = os.environ.get("AXON_TEST_DATA", "")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not REAL, reason="AXON_TEST_DATA names no folder of real data")]
CT_UUID, FILM_UUID = "aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002"
FAULTS: tuple[Fault, ...] = ("reset", "truncate", "flip", "503", "refuse")


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IDC's layout: ``idc-open-data/<series>/<instance>.dcm``, with a CT of 30 slices and a film."""
    root = tmp_path_factory.mktemp("s3")
    ct, film = root / "idc-open-data" / CT_UUID, root / "idc-open-data" / FILM_UUID
    ct.mkdir(parents=True)
    film.mkdir()
    with tarfile.open(next((Path(REAL) / "ct_dicom").glob("*.tar.xz"))) as archive:
        for member in archive:
            if member.name.endswith(".dcm") and (file := archive.extractfile(member)):
                (ct / f"bbbbbbbb-{Path(member.name).name}").write_bytes(file.read())
    (film / "cccccccc-1.dcm").write_bytes((Path(REAL) / "cxr_dicom" / "nih_00000001_000.dcm").read_bytes())
    return root


@pytest.fixture(scope="module")
def server(buckets: Path) -> Iterator[S3Server]:
    with s3_server(buckets, anonymous=True) as server:
        yield server


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries that a test can wait for."""
    monkeypatch.setattr(objects, "_FIRST_WAIT_S", 0.01)


@pytest.fixture
def cohort(buckets: Path, tmp_path: Path) -> Path:
    path = tmp_path / "cohort.json"
    Cohort(
        (series(buckets, CT_UUID, "1.2.3", "CT"), series(buckets, FILM_UUID, "1.2.4", "DX")), {"index": "test"}
    ).save(path)
    return path


def series(buckets: Path, uuid: str, uid: str, modality: str) -> Series:
    sizes = [p.stat().st_size for p in (buckets / "idc-open-data" / uuid).iterdir()]
    return Series(
        "lung_dx",
        "A0002",
        "1.2",
        uid,
        uuid,
        "idc-open-data",
        modality,
        len(sizes),
        sum(sizes),
        "CC BY 4.0",
        "10.7937/x",
    )


def contents(folder: Path) -> set[str]:
    return {sha256_file(p) for p in folder.rglob("*.dcm")}


def assert_complete(out: Path, buckets: Path) -> None:
    """Every byte as on the server, every line of the journal true, nothing half written, nothing else."""
    assert contents(out) == contents(buckets) and len(contents(out)) == 31
    entries = [json.loads(line) for line in (out / "objects.jsonl").read_text().splitlines()]
    for entry in entries:
        file = out / entry["path"]
        assert (file.stat().st_size, sha256_file(file)) == (entry["size"], entry["sha256"])
        assert hashlib.md5(file.read_bytes()).hexdigest() == entry["etag"] and entry["verified"] == "etag"
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert files == {"objects.jsonl", "cohort.json", *(entry["path"] for entry in entries)}


def test_fetched_whole_and_read_as_a_ct_and_not_fetched_twice(
    server: S3Server,
    buckets: Path,
    cohort: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "raw"
    with faulty_proxy(server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        assert main(["cohort", "fetch", str(cohort), str(out)]) == 0
        shown = capsys.readouterr()
        assert "31 files fetched" in shown.out and "Not a medical device" in shown.out
        assert "16.9M of 16.9M" in shown.err and "B/s" in shown.err and "left" in shown.err and "A0002" not in shown.err
        assert_complete(out, buckets)
        assert len(proxy.requests) == 31 + 2
        assert sum(r.sent for r in proxy.requests if r.path.endswith(".dcm")) == sum(
            s.bytes for s in Cohort.load(cohort).series
        )
        proxy.requests.clear()
        assert main(["cohort", "fetch", str(cohort), str(out), "--verify"]) == 0
        assert "0 files fetched" in capsys.readouterr().out and proxy.requests == []
    assert (out / "cohort.json").read_bytes() == cohort.read_bytes()
    (study,) = find_studies(out)
    assert study.collection == "lung_dx" and len(study.files) == 30
    assert read_ct(study.files).hu_DHW.shape == (30, 512, 512)


@pytest.mark.usefixtures("impatient")
def test_every_fault_is_survived(server: S3Server, buckets: Path, cohort: Path, tmp_path: Path) -> None:
    """Each path, the listing too, fails three times in a row, each time in another way."""

    def plan(request: Request) -> Fault:
        return (
            FAULTS[(request.nth + len(request.path) + sum(request.path.encode())) % len(FAULTS)]
            if request.nth < 3
            else ""
        )

    out = tmp_path / "raw"
    with faulty_proxy(server.endpoint, plan) as proxy:
        assert download_cohort(cohort, out, connect(proxy.endpoint), workers=8) == 31
        assert {r.fault for r in proxy.requests} == {*FAULTS, ""}
        assert len(proxy.requests) >= 4 * 31
    assert_complete(out, buckets)


@pytest.mark.parametrize(
    ("fault", "code"),
    [("flip", "S3_DAMAGED"), ("503", "S3_UNREACHABLE"), ("reset", "S3_UNREACHABLE"), ("truncate", "S3_UNREACHABLE")],
)
@pytest.mark.usefixtures("impatient")
def test_a_fault_that_stays_ends_with_its_code(
    server: S3Server, tmp_path: Path, buckets: Path, fault: Fault, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (some(buckets, n) for n in (0, 1))

    def late(futures: Iterable[Future[Entry]]) -> Iterator[Future[Entry]]:
        time.sleep(
            0.3
        )  # Whoever collects the results is late, as on a busy machine: the threads have to stop by themselves.
        return as_completed(futures)

    monkeypatch.setattr(objects, "as_completed", late)

    def plan(request: Request) -> Fault:
        return fault if request.path.endswith(one.key) else ""

    with (
        faulty_proxy(server.endpoint, plan) as proxy,
        Journal.open(tmp_path / "out") as journal,
        pytest.raises(AxonError) as ended,
    ):
        download([one, two], journal, connect(proxy.endpoint), workers=1, attempts=3)
    assert ended.value.code == code and ended.value.fix
    assert len([r for r in proxy.requests if r.path.endswith(one.key)]) == 3
    assert not (tmp_path / "out" / one.path).exists() and not list((tmp_path / "out").rglob("*.part"))
    # One damaged object costs itself alone; a network that is down costs the rest.
    assert (tmp_path / "out" / two.path).exists() == (code == "S3_DAMAGED")


def test_the_failure_that_ends_a_download_is_the_one_that_is_told(
    server: S3Server, tmp_path: Path, buckets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not that another object was waiting to be tried again."""
    waiting, fatal = (some(buckets, n) for n in (0, 1))

    def full(journal: Journal, entry: Entry) -> None:
        time.sleep(0.5)  # until the other one waits
        raise AxonError("DISK_FULL", "no space left", "free some")

    def waiting_first(futures: set[Future[Entry]]) -> list[Future[Entry]]:
        done = list(as_completed(futures))
        return sorted(done, key=lambda future: "DISK_FULL" in str(future.exception()))

    monkeypatch.setattr(objects.random, "uniform", lambda least, most: 60.0)
    monkeypatch.setattr(Journal, "add", full)
    monkeypatch.setattr(objects, "as_completed", waiting_first)
    with (
        faulty_proxy(server.endpoint, lambda r: "503" if r.path.endswith(waiting.key) else "") as proxy,
        Journal.open(tmp_path / "out") as journal,
        pytest.raises(AxonError) as ended,
    ):
        download([waiting, fatal], journal, connect(proxy.endpoint), workers=2, attempts=3)
    assert ended.value.code == "DISK_FULL"


def some(buckets: Path, n: int) -> S3Object:
    path = sorted((buckets / "idc-open-data" / CT_UUID).iterdir())[n]
    etag = hashlib.md5(path.read_bytes()).hexdigest()
    return S3Object("idc-open-data", f"{CT_UUID}/{path.name}", path.stat().st_size, etag, f"x/{path.name}")


@pytest.mark.parametrize("damage", [b"no JSON", b"\xff\xfe", b"[]", b'{"path": "b"}', b"[" * 100_000, b""])
def test_a_damaged_line_of_the_journal_costs_its_own_file_alone(tmp_path: Path, damage: bytes) -> None:
    with Journal.open(tmp_path) as journal:
        for name in "abc":
            journal.add(Entry(name, 1, "etag", "sha256", "size"))
    written = tmp_path / "objects.jsonl"
    first, _, last = written.read_bytes().splitlines()
    written.write_bytes(b"\n".join((first, damage, last, b"")))
    with Journal.open(tmp_path) as journal:
        assert set(journal.entries) == {"a", "c"}
        journal.add(Entry("b", 1, "etag", "sha256", "size"))
    with Journal.open(tmp_path) as journal:
        assert set(journal.entries) == {"a", "b", "c"}


def test_nobody_listens(tmp_path: Path, buckets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_FIRST_WAIT_S", 0.01)
    with Journal.open(tmp_path / "out") as journal, pytest.raises(AxonError) as ended:
        download([some(buckets, 0)], journal, connect("http://127.0.0.1:9"), attempts=2)
    assert ended.value.code == "S3_UNREACHABLE" and "127.0.0.1:9" in ended.value.message


def test_a_slow_answer_is_waited_for(server: S3Server, tmp_path: Path, buckets: Path) -> None:
    with faulty_proxy(server.endpoint, lambda r: "slow") as proxy, Journal.open(tmp_path / "out") as journal:
        assert download([some(buckets, 0)], journal, connect(proxy.endpoint), attempts=1) == 1


def test_an_answer_that_never_goes_on_is_given_up_and_asked_for_again(
    server: S3Server, tmp_path: Path, buckets: Path
) -> None:
    with (
        faulty_proxy(server.endpoint, lambda r: "" if r.nth else "hang") as proxy,
        Journal.open(tmp_path / "out") as journal,
    ):
        impatient = Config(signature_version=UNSIGNED, read_timeout=1, retries={"total_max_attempts": 1})
        client = boto3.client("s3", endpoint_url=proxy.endpoint, config=impatient)
        assert download([some(buckets, 0)], journal, client) == 1
        assert [r.fault for r in proxy.requests] == ["hang", ""]


def test_missing_object_and_missing_series(server: S3Server, tmp_path: Path, buckets: Path, cohort: Path) -> None:
    client = connect(server.endpoint)
    gone = replace(some(buckets, 0), key=f"{CT_UUID}/gone.dcm", path="x/gone.dcm")
    with Journal.open(tmp_path / "one") as journal, pytest.raises(AxonError) as ended:
        download([gone, some(buckets, 1)], journal, client, workers=1)
    assert ended.value.code == "S3_MISSING" and (tmp_path / "one" / some(buckets, 1).path).exists()
    whole = Cohort.load(cohort)
    Cohort((replace(whole.series[0], crdc_series_uuid="gone"), whole.series[1]), {"index": "test"}).save(cohort)
    with pytest.raises(AxonError) as ended:
        download_cohort(cohort, tmp_path / "two", client, 4)
    assert ended.value.code == "S3_MISSING" and "1 series" in ended.value.message
    assert len(contents(tmp_path / "two")) == 1, "the other series is fetched"
    Cohort((replace(whole.series[0], instances=31),), {"index": "test"}).save(cohort)
    with pytest.raises(AxonError, match=r"30 images of .* not 31"):
        download_cohort(cohort, tmp_path / "three", client, 4)


def test_credentials(
    buckets: Path, tmp_path: Path, cohort: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that asks for keys: none, wrong ones, right ones; the secret is never shown."""

    def run() -> str:
        with pytest.raises(SystemExit):
            main(["cohort", "fetch", str(cohort), str(tmp_path / "raw"), "--sign", "--endpoint", server.endpoint])
        return capsys.readouterr().err.splitlines()[-1]

    with s3_server(buckets) as server:
        with pytest.raises(AxonError) as anonymous:
            download_cohort(cohort, tmp_path / "raw", connect(server.endpoint), 4)
        assert anonymous.value.code == "S3_DENIED", anonymous.value
        assert run().startswith("[S3_DENIED]")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
        said = run()
        assert said.startswith("[S3_DENIED]") and "secret" not in said
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret)
        assert (
            main(["cohort", "fetch", str(cohort), str(tmp_path / "raw"), "--sign", "--endpoint", server.endpoint]) == 0
        )
    assert_complete(tmp_path / "raw", buckets)


def test_killed_in_the_middle_it_goes_on_where_it_was(
    server: S3Server, buckets: Path, cohort: Path, tmp_path: Path
) -> None:
    out = tmp_path / "raw"
    command = [sys.executable, "-m", "axon.cli", "cohort", "fetch", str(cohort), str(out), "--workers", "2"]
    with faulty_proxy(server.endpoint, lambda r: "slow" if r.path.endswith(".dcm") else "") as proxy:
        process = subprocess.Popen([*command, "--endpoint", proxy.endpoint], stderr=subprocess.DEVNULL)
        while len(contents(out)) < 3 or not list(out.rglob(".*.part")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        # What the killed process had asked for last may still be on its way to the proxy.
        time.sleep(0.5)
        with (out / "objects.jsonl").open("a") as journal:
            journal.write('{"path": "half a li')
        here = contents(out)
        assert 3 <= len(here) < 31 and here < contents(buckets), "what has its final name is whole"
        known = len((out / "objects.jsonl").read_text().splitlines()) - 1
        proxy.plan = lambda r: ""
        proxy.requests.clear()
        assert download_cohort(cohort, out, connect(proxy.endpoint), 4) == 31 - known
        assert len([r for r in proxy.requests if r.path.endswith(".dcm")]) == 31 - known
    assert_complete(out, buckets)


def test_damage_on_disk_is_found_and_mended(server: S3Server, buckets: Path, cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "raw"
    client = connect(server.endpoint)
    download_cohort(cohort, out, client, 8)
    shorter, flipped, gone = sorted(out.rglob("*.dcm"))[:3]
    shorter.write_bytes(shorter.read_bytes()[:-1])
    gone.unlink()
    assert download_cohort(cohort, out, client, 8) == 2
    data = flipped.read_bytes()
    flipped.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    assert download_cohort(cohort, out, client, 8) == 0, "the size alone cannot tell"
    assert download_cohort(cohort, out, client, 8, reread=True) == 1
    assert contents(out) == contents(buckets)


def test_one_writer_at_a_time_and_one_cohort_a_folder(server: S3Server, cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "raw"
    client = connect(server.endpoint)
    with Journal.open(out), pytest.raises(AxonError) as busy:
        download_cohort(cohort, out, client, 4)
    assert busy.value.code == "COHORT_BUSY"
    whole = Cohort.load(cohort)
    Cohort(whole.series[1:], whole.summary).save(tmp_path / "film.json")
    assert download_cohort(tmp_path / "film.json", out, client, 4) == 1
    assert download_cohort(cohort, out, client, 4) == 30, "a larger cohort takes over what is here"
    with pytest.raises(AxonError) as other:
        download_cohort(tmp_path / "film.json", out, client, 4)
    assert other.value.code == "COHORT_OTHER" and len(contents(out)) == 31


def test_disk_full(server: S3Server, cohort: Path, tmp_path: Path) -> None:
    """On a real disk of 4 MiB: refused before the first byte, and where others fill it meanwhile, ended by a code."""
    script = """
import sys
from pathlib import Path
from axon.cohorts.download import Cohort, download_cohort
from axon.cohorts.objects import Journal, connect, download, list_objects
from axon.errors import AxonError
cohort, disk, client = Path(sys.argv[1]), Path(sys.argv[2]), connect(sys.argv[3])
ct = Cohort.load(cohort).series[0]
def early(): download_cohort(cohort, disk / "early", client, 4)
def late():
    with Journal.open(disk / "late") as journal:
        download(list_objects(client, ct.bucket, ct.crdc_series_uuid + "/", "ct"), journal, client, workers=2)
for step in (early, late):
    try:
        step()
    except AxonError as error:
        print(error.code, len(list(disk.rglob("*.dcm"))), len(list(disk.rglob(".*.part"))))
"""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        f'mount -t tmpfs -o size=4m none "{disk}" && exec "$@"',
        "sh",
    ]
    if subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    done = subprocess.run(
        [*mount, sys.executable, "-c", script, str(cohort), str(disk), server.endpoint], capture_output=True, text=True
    )
    early, late = done.stdout.splitlines()
    assert early == "DISK_FULL 0 0"
    code, whole, parts = late.split()
    assert code == "DISK_FULL" and 5 <= int(whole) <= 7 and parts == "0"


def test_an_object_uploaded_in_parts(tmp_path: Path) -> None:
    """An ETag of usual parts is recomputed; where the part size is unusual or the ETag no MD5, the size alone is
    checked, and recorded.
    """
    bucket = tmp_path / "s3" / "bucket"
    bucket.mkdir(parents=True)
    body = os.urandom(1 << 20) * 12
    (bucket / "x").write_bytes(body)

    def etag(part: int) -> str:
        parts = [hashlib.md5(body[start : start + part]).digest() for start in range(0, len(body), part)]
        return f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"

    etags = {"usual": etag(5 << 20), "large": etag(8 << 20), "unusual": etag(7 << 20), "other": "opaque"}
    with s3_server(tmp_path / "s3", anonymous=True) as server, Journal.open(tmp_path / "out") as journal:
        download(
            [S3Object("bucket", "x", len(body), e, name) for name, e in etags.items()],
            journal,
            connect(server.endpoint),
            attempts=1,
        )
        assert {n: e.verified for n, e in journal.entries.items()} == {
            "usual": "etag",
            "large": "etag",
            "unusual": "size",
            "other": "size",
        }
        assert {e.sha256 for e in journal.entries.values()} == {hashlib.sha256(body).hexdigest()}
