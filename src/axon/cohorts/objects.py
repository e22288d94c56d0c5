"""Download many S3 objects: each verified, under its name whole or not at all, and none twice."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import random
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from tqdm import tqdm

from axon.errors import AxonError
from axon.files import sha256_file, whole_file

Verified = Literal["etag", "size"]
T = TypeVar("T")
ATTEMPTS = 8
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 20.0
_CHUNK = 1 << 20
_PASSING = (NoConnectionError, HTTPClientError, IncompleteReadError)
_PART_SIZES = tuple(n << 20 for n in (5, 8, 10, 15, 16, 32, 50, 64, 100, 128, 256, 512))
# Servers answer these with 400; the last is rclone's word for a request that is not signed.
_DENIED = ("ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "UnsupportedAlgorithm")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class S3Object:
    """One object to fetch.

    Attributes:
        bucket, key: Where it is.
        size: Bytes.
        etag: As S3 lists it, without quotes: the MD5, or ``MD5-of-MD5s-parts`` of an object that was uploaded in parts.
        path: Where it goes, relative to the output folder, with ``/``.
    """

    bucket: str
    key: str
    size: int
    etag: str
    path: str


@dataclass(frozen=True)
class Entry:
    """One line of the journal: an object that is here, whole.

    Attributes:
        path, size, etag: As in `S3Object`.
        sha256: Of the bytes on disk.
        verified: ``etag`` where they agree with the ETag; ``size`` where the ETag is no checksum that can be recomputed
            (unknown part size, KMS encryption), so that only the size was checked.
    """

    path: str
    size: int
    etag: str
    sha256: str
    verified: Verified


_ALONE = ("S3_MISSING", "S3_DAMAGED")
"""What costs one object and no other."""


class _DamagedError(Exception):
    """The bytes that came are not the object's."""


class _StoppedError(Exception):
    """Another object's failure, which its own thread reports, has ended the download."""


class Journal:
    """What is complete in an output folder: ``objects.jsonl``, one line an object, appended when its file has its name.

    It is also the folder's lock: `open` lets one process at a time write there.
    """

    def __init__(self, folder: Path, file: IO[bytes]) -> None:
        self.folder = folder
        self._file = file
        self._lock = threading.Lock()
        lines = file.read()
        # A killed process may leave half a line.
        whole = lines[: lines.rfind(b"\n") + 1]
        file.truncate(len(whole))
        self.entries: dict[str, Entry] = {}
        for line in whole.splitlines():
            # The file of a line that was damaged is fetched anew.
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                entry = Entry(**json.loads(line))
                self.entries[entry.path] = entry

    @classmethod
    @contextlib.contextmanager
    def open(cls, out: Path) -> Iterator[Journal]:
        """Read the journal of ``out``, making both if need be, and lock it. Raises AxonError ``COHORT_BUSY``."""
        out.mkdir(parents=True, exist_ok=True)
        with (out / "objects.jsonl").open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AxonError(
                    "COHORT_BUSY", f"another process writes to {out}", "wait for it to end, or name another folder"
                ) from error
            file.seek(0)
            yield cls(out, file)

    def holds(self, path: str, again: bool = False) -> bool:
        """Whether the file is here with its size; ``again`` reads it once more and compares its SHA-256."""
        entry, file = self.entries.get(path), self.folder / path
        if entry is None or not file.is_file() or file.stat().st_size != entry.size:
            return False
        return not again or sha256_file(file) == entry.sha256

    def add(self, entry: Entry) -> None:
        with self._lock:
            self.entries[entry.path] = entry
            self._file.write(json.dumps(asdict(entry), sort_keys=True).encode() + b"\n")
            self._file.flush()


def connect(endpoint: str | None = None, sign: bool = False, workers: int = 16) -> Any:
    """An S3 client; it never tries twice, as `download` does.

    Args:
        endpoint: Another server than Amazon's; None reads ``AWS_ENDPOINT_URL_S3``, as boto3 does.
        sign: Use the credentials that boto3 finds (environment, profile, role); otherwise ask as anybody, for public
            buckets.
        workers: Connections that are kept.
    """
    config = Config(
        signature_version="s3v4" if sign else UNSIGNED,
        retries={"total_max_attempts": 1},
        connect_timeout=10,
        read_timeout=30,
        # The threads' and that of listing.
        max_pool_connections=workers + 1,
    )
    return boto3.Session().client("s3", endpoint_url=endpoint, config=config)


def list_objects(client: Any, bucket: str, prefix: str, folder: str, attempts: int = ATTEMPTS) -> list[S3Object]:
    """All objects under a prefix, to be written flat into ``folder``.

    Raises:
        AxonError: ``S3_MISSING`` where there is none, or another code of `download`.
    """
    where = f"s3://{bucket}/{prefix}"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    # A key that ends in a slash is the mark of an empty folder, made by some tools.
    rows = retry(
        lambda: [row for page in pages for row in page.get("Contents", []) if not row["Key"].endswith("/")],
        where,
        attempts,
    )
    if not rows:
        raise AxonError("S3_MISSING", f"there is nothing at {where}", "check the bucket and the endpoint")
    return [
        S3Object(bucket, r["Key"], r["Size"], r["ETag"].strip('"'), f"{folder}/{r['Key'].rpartition('/')[2]}")
        for r in rows
    ]


def download(
    objects: Iterable[S3Object],
    journal: Journal,
    client: Any,
    workers: int = 16,
    total_bytes: int = 0,
    attempts: int = ATTEMPTS,
) -> int:
    """Fetch what the journal does not hold yet, several objects at a time; return the number fetched.

    ``objects`` is read as far as there is work for the threads and no further. An object that is missing or stays
    damaged costs
    nothing but itself: the others are fetched, then the error is raised. Memory is bounded by ``workers`` chunks of 1
    MiB.

    Args:
        objects: What to fetch.
        journal: Of the output folder.
        client: As of `connect`.
        workers: Threads.
        total_bytes: For the progress; 0 shows none.
        attempts: Tries of one object, with a growing, random wait between them.

    Raises:
        AxonError: ``S3_MISSING``, ``S3_DAMAGED``, ``S3_DENIED``, ``S3_REFUSED``, ``S3_UNREACHABLE`` or ``DISK_FULL``.
    """
    stop = threading.Event()
    failed: list[AxonError] = []
    fetched = 0
    with _progress(total_bytes) as bar, ThreadPoolExecutor(workers) as pool:
        pending: set[Future[Entry]] = set()

        def collect(done: set[Future[Entry]]) -> None:
            nonlocal fetched
            for future in done:
                try:
                    bar.update(future.result().size)
                    fetched += 1
                except _StoppedError:
                    pass
                except AxonError as error:
                    if error.code not in _ALONE:
                        raise
                    failed.append(error)

        try:
            for one in objects:
                if journal.holds(one.path) and journal.entries[one.path].etag == one.etag:
                    continue
                pending.add(pool.submit(_fetch, client, one, journal, stop, attempts))
                if len(pending) >= 4 * workers:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    collect(done)
            for future in as_completed(pending):
                collect({future})
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    if failed:
        raise AxonError(
            failed[0].code, f"{len(failed)} objects could not be fetched; the first: {failed[0].message}", failed[0].fix
        )
    return fetched


def retry(action: Callable[[], T], what: str, attempts: int = ATTEMPTS, stop: threading.Event | None = None) -> T:
    """Do ``action`` until it works; wait a random time up to 0.5, 1, 2, ... 20 s after what may pass, end at once on
    what will not.

    Raises:
        AxonError: ``S3_UNREACHABLE`` or ``S3_DAMAGED`` after the last attempt; ``S3_DENIED``, ``S3_MISSING``,
            ``S3_REFUSED`` or ``DISK_FULL`` at once.
    """
    stop = stop or threading.Event()
    for attempt in range(attempts):
        try:
            return action()
        except (ClientError, *_PASSING, FlexibleChecksumError, _DamagedError) as error:
            if isinstance(error, ClientError) and (lasting := _lasting(error, what)):
                raise lasting from error
            last: Exception = error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise AxonError(
                "S3_DENIED", f"{what}: {error}", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise AxonError(
                    "DISK_FULL", f"no space left for {what}", "free some and run it again: it goes on where it was"
                ) from error
            raise
        if attempt + 1 < attempts:
            pause = random.uniform(0, min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt))
            _log.debug("%s: %s; again in %.1f s", what, last, pause)
            if stop.wait(pause):
                raise _StoppedError
    if isinstance(last, _DamagedError | FlexibleChecksumError):
        raise AxonError(
            "S3_DAMAGED", f"{what} came damaged {attempts} times: {last}", "run it again; else the source is damaged"
        ) from last
    fix = "check the endpoint and the network and run it again: it goes on where it was"
    raise AxonError("S3_UNREACHABLE", f"{what} failed {attempts} times: {last}", fix) from last


def _lasting(error: ClientError, what: str) -> AxonError | None:
    """The end of trying, or None for what may pass: 5xx, throttling, a request that came too slowly."""
    status, code = error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
    if status >= 500 or status == 429 or code in ("SlowDown", "Throttling", "ThrottlingException", "RequestTimeout"):
        return None
    if status in (401, 403) or code in _DENIED:
        return AxonError(
            "S3_DENIED",
            f"{what}: {code}",
            "a public bucket needs no --sign; another needs it and working AWS credentials",
        )
    if status == 404:
        return AxonError("S3_MISSING", f"{what}: {code}", "check the bucket and the endpoint")
    return AxonError("S3_REFUSED", f"{what}: HTTP {status} {code}", "check the endpoint, the region and the bucket")


def _fetch(client: Any, one: S3Object, journal: Journal, stop: threading.Event, attempts: int) -> Entry:
    try:
        entry = retry(
            lambda: _fetch_once(client, one, journal.folder, stop), f"s3://{one.bucket}/{one.key}", attempts, stop
        )
        journal.add(entry)
    except Exception as error:
        # Here and not where the result is collected: by then this thread may be done with the next object.
        if not (isinstance(error, AxonError) and error.code in _ALONE):
            stop.set()
        raise
    return entry


def _fetch_once(client: Any, one: S3Object, out: Path, stop: threading.Event) -> Entry:
    """Stream to a hidden sibling, verify it, bring it to the disk, then give it its name."""
    path = out / one.path
    md5, sha256, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    if stop.is_set():
        raise _StoppedError
    with whole_file(path) as part:
        answer = client.get_object(Bucket=one.bucket, Key=one.key)
        with part.open("wb") as file:
            for chunk in answer["Body"].iter_chunks(_CHUNK):
                if stop.is_set():
                    raise _StoppedError
                md5.update(chunk)
                sha256.update(chunk)
                size += len(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if size != one.size:
            raise _DamagedError(f"{size} bytes in place of {one.size}")
        plain = answer.get("ServerSideEncryption", "AES256") == "AES256"
        verified = _verify(part, one.etag, md5.hexdigest()) if plain else "size"
    return Entry(one.path, size, one.etag, sha256.hexdigest(), verified)


def _verify(path: Path, etag: str, md5: str) -> Verified:
    """Compare with the ETag; of an object uploaded in parts, try the part sizes in use that give its number of
    parts.
    """
    digest, _, parts = etag.partition("-")
    if not parts and len(etag) == 32:
        if md5 != etag:
            raise _DamagedError(f"MD5 {md5} in place of {etag}")
        return "etag"
    size = path.stat().st_size
    fitting = [p for p in _PART_SIZES if parts.isdecimal() and -(-size // p) == int(parts)]
    return "etag" if any(multipart_md5(path, p) == digest for p in fitting) else "size"


def multipart_md5(path: Path, part_size: int) -> str:
    """The first half of the ETag that S3 gives a file uploaded in parts of ``part_size``: the MD5 of the parts' binary
    MD5s.
    """
    total = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        for start in range(0, path.stat().st_size, part_size):
            own, left = hashlib.md5(usedforsecurity=False), part_size
            file.seek(start)
            while left and (chunk := file.read(min(left, _CHUNK))):
                own.update(chunk)
                left -= len(chunk)
            total.update(own.digest())
    return total.hexdigest()


class _Lines:
    """Where nobody watches: each state of the bar a line of its own."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass


def _progress(total: int) -> Any:
    """A bar with rate and time left on a terminal, otherwise a line every ten seconds."""
    look: dict[str, Any] = {"total": total, "desc": "download", "unit": "B", "unit_scale": True, "disable": not total}
    if sys.stderr.isatty():
        return tqdm(**look)
    shape = "{desc}: {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left"
    return tqdm(**look, file=_Lines(), bar_format=shape, mininterval=10, maxinterval=10)
