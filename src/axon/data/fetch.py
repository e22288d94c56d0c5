"""Bring a dataset to a step: a DVC revision, or a folder of CTs; publish a built dataset to the DVC cache and remote."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from axon.data.dataset import verify_dataset
from axon.data.files import sha256_file, whole_folder, write_json
from axon.data.readers import find_studies
from axon.errors import AxonError


@dataclass(frozen=True)
class DataRevision:
    """A dataset version.

    Attributes:
        commit: Full git commit hash.
        md5: DVC's hash of the data folder in ``data.dvc`` at that commit.
    """

    commit: str
    md5: str


def resolve(repo: str, revision: str) -> DataRevision:
    """Turn a git revision (branch, tag, hash) of a local checkout into a commit and the hash of its dataset.

    Raises:
        AxonError: ``DATA_REVISION_MISSING`` for an unknown revision, ``DATA_NOT_VERSIONED`` where it has no ``data.dvc``.
    """
    named = _git(repo, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if named is None:
        raise AxonError("DATA_REVISION_MISSING", f"{revision!r} is no git revision of {repo}", "name a commit, tag or branch that is there")
    commit = named.strip()
    pointer = _git(repo, "show", f"{commit}:data.dvc")
    try:
        return DataRevision(commit, str(yaml.safe_load(pointer or "")["outs"][0]["md5"]))
    except (yaml.YAMLError, KeyError, TypeError, IndexError) as error:
        raise AxonError("DATA_NOT_VERSIONED", f"revision {commit} has no usable data.dvc", "name a revision that has one") from error


def fetch(out: Path, shards: int, repo: str = "", commit: str = "", folder: str = "") -> list[int]:
    """Write the raw dataset to ``out``, whole and checked, with its ``source.json``.

    Args:
        out: Folder to write.
        shards: Parallel ingestion tasks wanted.
        repo: Checkout that holds ``data.dvc``, with ``commit``.
        commit: A revision; or else
        folder: A folder of CTs, or of a packed dataset.

    Returns:
        list[int]: The shards' indices, no more of them than studies.

    Raises:
        AxonError: ``DATA_SOURCE`` unless exactly one source is named, ``DATA_NOT_CACHED``, ``NO_CT``,
            or those of `resolve` and `verify_dataset`.
    """
    if bool(commit) == bool(folder):
        raise AxonError("DATA_SOURCE", "name one source of data: a DVC revision or a folder", "set exactly one of them")
    with whole_folder(out) as part:
        if commit:
            revision = resolve(repo, commit)
            _get_revision(repo, revision, part)
            write_json(part / "source.json", {"kind": "dvc", "commit": revision.commit, "dvc_md5": revision.md5})
        else:
            digest = _copy_folder(Path(folder), part)
            write_json(part / "source.json", {"kind": "folder", "sha256": digest})
        packed = bool(commit) or (part / "manifest.csv").is_file()
        studies = len(verify_dataset(part)) if packed else len(find_studies(part))
    return list(range(min(shards, studies)))


def publish(repo: Path) -> None:
    """Put the built ``data`` into the DVC cache and push it to the default remote.

    Raises:
        AxonError: ``DATA_CHANGED`` where ``data`` is not what ``data.dvc`` names, ``DATASET_MISSING`` where it is not there.
    """
    from dvc.repo import Repo

    if not (repo / "data").is_dir():
        raise AxonError("DATASET_MISSING", f"no dataset at {repo / 'data'}", "run `make data`")
    pointer = str(repo.resolve() / "data.dvc")
    with Repo(str(repo)) as dvc:
        if _differs(dvc.status(targets=[pointer])):
            raise AxonError("DATA_CHANGED", "data/ is not what data.dvc names", "run `make data`, or `dvc add data` for a new version")
        dvc.commit(pointer, force=True)
        dvc.push(targets=[pointer])


def _differs(status: dict[str, list]) -> bool:
    """Whether a file of the data differs; that the cache lacks it is what publishing mends."""
    changes = [item.get("changed outs", {}) for items in status.values() for item in items if isinstance(item, dict)]
    return any(state != "not in cache" for outs in changes for state in outs.values())


def _get_revision(repo: str, revision: DataRevision, out: Path) -> None:
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError
    from dvc_objects.errors import ObjectDBError

    try:
        with contextlib.closing(DVCFileSystem(url=repo or ".", rev=revision.commit)) as fs:
            fs.get("data/", str(out), recursive=True)
    except (DvcException, DataIndexDirError, ObjectDBError, OSError) as error:
        message = f"the data of revision {revision.commit} ({revision.md5}) is neither in the DVC cache nor on the remote: {error}"
        raise AxonError("DATA_NOT_CACHED", message, "run `make data`, or configure the remote that holds it") from error


def _copy_folder(folder: Path, out: Path) -> str:
    """Copy CTs, their patients' films, and splits.json and manifest.csv where given; return the SHA-256 of all names and contents."""
    files = {path for study in find_studies(folder) for path in (*study.files, *study.films)}
    files |= {path for name in ("splits.json", "manifest.csv") if (path := folder / name).is_file()}
    digest = hashlib.sha256()
    for path in sorted(files):
        relative = path.relative_to(folder)
        (out / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / relative)
        digest.update(f"{relative.as_posix()} {sha256_file(out / relative)}\n".encode())
    return digest.hexdigest()


def _git(repo: str, *arguments: str) -> str | None:
    """Standard output of a git command, or None where it fails."""
    done = subprocess.run(["git", "-C", repo or ".", *arguments], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None
