"""Fetch a cohort's images from their buckets: what was chosen, whole, and only what is not here yet."""

from __future__ import annotations

import logging
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axon.cohorts.select import Cohort, Series
from axon.errors import AxonError

if TYPE_CHECKING:
    from axon.cohorts.objects import S3Object

_log = logging.getLogger(__name__)


def download_cohort(path: Path, out: Path, client: Any, workers: int, reread: bool = False) -> int:
    """Bring a cohort's images to ``out/<collection>/<patient>/<series UID>/<file>``; return how many were fetched.

    What is already here, by size, is neither listed nor fetched again; ``reread`` compares its SHA-256, too.

    Args:
        path: Cohort file; its copy will be ``out/cohort.json``.
        out: Folder; may hold a part of this cohort, from a run that was ended or of a smaller cohort.
        client: As of `axon.cohorts.objects.connect`.
        workers: Objects fetched at a time.
        reread: Read every file that is here once more.

    Raises:
        AxonError: ``COHORT_UNREADABLE``, ``COHORT_OTHER``, ``COHORT_BUSY``, ``DISK_FULL``, or one of
            `axon.cohorts.objects.download`.
    """
    from axon.cohorts.objects import Journal, download

    cohort = Cohort.load(path)
    folders = {f"{s.collection}/{s.patient_id}/{s.series_uid}": s for s in cohort.series}
    with Journal.open(out) as journal:
        here: dict[str, list[int]] = defaultdict(list)
        for name, entry in list(journal.entries.items()):
            folder = name.rpartition("/")[0]
            if folder not in folders:
                raise AxonError("COHORT_OTHER", f"{out} holds {folder}, which is not in {path}", "name another folder")
            if journal.holds(name, reread):
                here[folder].append(entry.size)
            else:
                del journal.entries[name]
                (out / name).unlink(missing_ok=True)
        cohort.save(out / "cohort.json")
        wanted = {folder: s for folder, s in folders.items() if len(here[folder]) != s.instances}
        left = sum(s.bytes - sum(here[folder]) for folder, s in wanted.items())
        if left > (free := shutil.disk_usage(out).free):
            raise AxonError(
                "DISK_FULL",
                f"{left / 1e9:.2f} GB are to come and {free / 1e9:.2f} GB are free",
                "free some, or --max-gb",
            )
        incomplete: list[AxonError] = []
        fetched = download(_objects(client, wanted, incomplete), journal, client, workers, left)
        if unsure := sum(entry.verified == "size" for entry in journal.entries.values()):
            _log.warning(
                "%d files were checked by their size alone: their ETags are no checksums that can be recomputed", unsure
            )
    if incomplete:
        raise AxonError(
            "S3_MISSING",
            f"{len(incomplete)} series are not complete; the first: {incomplete[0].message}",
            incomplete[0].fix,
        )
    return fetched


def _objects(client: Any, wanted: dict[str, Series], incomplete: list[AxonError]) -> Iterator[S3Object]:
    """Every object of the wanted series; a series that differs from the index is noted and passed over."""
    from axon.cohorts.objects import list_objects

    for folder, s in wanted.items():
        try:
            found = list_objects(client, s.bucket, f"{s.crdc_series_uuid}/", folder)
            if (len(found), size := sum(o.size for o in found)) != (s.instances, s.bytes):
                message = f"{folder} has {len(found)} images of {size} bytes, not {s.instances} of {s.bytes}"
                raise AxonError("S3_MISSING", message, "make the cohort anew with the newest idc-index-data")
        except AxonError as error:
            if error.code != "S3_MISSING":
                raise
            incomplete.append(error)
        else:
            yield from found
