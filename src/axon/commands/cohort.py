"""``axon cohort``."""

from __future__ import annotations

import argparse
import contextlib
import math
from pathlib import Path

from axon.commands import Verbs, group, named_path, verb, whole_number

COLLECTIONS = ("lidc_idri", "covid_19_ny_sbu", "covid_19_ar")
_SELECT = """\
Choose patients with CT and X-ray films (CR, DX) from the index of NCI's Imaging Data Commons, offline: one CT a
patient, all films. The index is in the extra: pip install 'axon-ct[cohort]'. Nothing is downloaded yet; the summary
says how large the cohort is and under which licences it comes."""
_SELECT_EXAMPLES = """examples:
  axon cohort select --dry-run                     the LIDC-IDRI patients with films: how many, how large, which licence
  axon cohort select lidc.json --max-gb 5          as many of them as fit into 5 GB
  axon cohort select drr.json --ct-only include    with those who have a CT and no film
  axon cohort select test.json --collection covid_19_ar --collection covid_19_ny_sbu --limit 20
"""
_FETCH = """\
Download a cohort from IDC's public buckets to OUT/<collection>/<patient>/<series UID>/. Every file is verified and
appears whole or not at all. Ended or failed, the same command goes on where it was; what is here is not fetched again.
OUT/objects.jsonl lists every file with its size, ETag and SHA-256."""
_FETCH_EXAMPLES = """examples:
  axon cohort fetch lidc.json raw/lidc
  axon cohort fetch lidc.json raw/lidc --verify       read again what is here and fetch what is damaged
  axon cohort fetch lidc.json raw/lidc --endpoint https://s3.hospital.example --sign
"""


def add(verbs: Verbs) -> None:
    cohort = group(verbs, "cohort", "choose and download real CTs with X-rays")
    select = verb(cohort, "select", "choose patients and series, offline", _SELECT, _SELECT_EXAMPLES)
    select.add_argument(
        "file",
        type=named_path,
        nargs="?",
        default=Path("cohort.json"),
        help="cohort file to write (default: %(default)s)",
    )
    select.add_argument(
        "--collection",
        action="append",
        metavar="NAME",
        help=f"an IDC collection, may be repeated; known to fit: {', '.join(COLLECTIONS)}",
    )
    select.add_argument(
        "--ct-only",
        choices=("include", "exclude", "only"),
        default="exclude",
        help="patients without a film (default: %(default)s)",
    )
    select.add_argument(
        "--limit", type=whole_number(1), metavar="N", help="at most N patients, a fair sample; fewer are a part of more"
    )
    select.add_argument("--max-gb", type=_gigabytes, metavar="GB", help="at most that much, in units of 10^9 bytes")
    select.add_argument("--dry-run", action="store_true", help="print the summary and write nothing")
    select.set_defaults(verb=_select)
    fetch = verb(cohort, "fetch", "download a cohort", _FETCH, _FETCH_EXAMPLES)
    fetch.add_argument("file", type=named_path, help="cohort file, as of `axon cohort select`")
    fetch.add_argument("out", type=named_path, help="folder; may hold a part already")
    fetch.add_argument("--endpoint", metavar="URL", help="S3 server (default: AWS_ENDPOINT_URL_S3, or Amazon's)")
    fetch.add_argument("--sign", action="store_true", help="use AWS credentials; public buckets need none")
    fetch.add_argument(
        "--workers", type=whole_number(1), default=16, metavar="N", help="files at a time (default: %(default)s)"
    )
    fetch.add_argument(
        "--verify", action="store_true", help="also read again every file that is here and compare its SHA-256"
    )
    fetch.set_defaults(verb=_fetch)


def _gigabytes(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number above 0")


def _select(arguments: argparse.Namespace) -> None:
    from axon.cohorts.select import describe, index_path, index_version, read_index, select

    series = read_index(index_path(), arguments.collection or ["lidc_idri"])
    max_bytes = None if arguments.max_gb is None else int(arguments.max_gb * 1e9)
    cohort = select(series, index_version(), arguments.ct_only, arguments.limit, max_bytes)
    print(describe(cohort))
    if arguments.dry_run:
        print("dry run: nothing is written")
    else:
        cohort.save(arguments.file)
        print(f"written to {arguments.file}; next: axon cohort fetch {arguments.file} FOLDER")


def _fetch(arguments: argparse.Namespace) -> None:
    from axon import DISCLAIMER
    from axon.cohorts.download import download_cohort
    from axon.cohorts.objects import connect

    client = connect(arguments.endpoint, arguments.sign, arguments.workers)
    fetched = download_cohort(arguments.file, arguments.out, client, arguments.workers, arguments.verify)
    print(
        f"{fetched} files fetched; the cohort is complete in {arguments.out}. Keep its licences and DOIs, cohort.json, "
        "with it."
    )
    print(DISCLAIMER)
