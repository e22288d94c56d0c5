"""Dataset versions: a git revision of ``data.dvc`` names one, DVC's cache and remote hold it.

Git is read through DVC's own libraries, so that a container needs neither the git program nor a checkout: a git URL
will do. Credentials
come from the environment alone: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE``, ...
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from axon.data.verify import verify_dataset
from axon.errors import AxonError
from axon.files import files_below, whole_folder

if TYPE_CHECKING:
    from dvc.api import DVCFileSystem

_SAVE = (
    "`axon dataset push` keeps what data.dvc names; `dvc add data` makes a version of what is there; or move data/ away"
)


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
    """Turn a git revision into a commit and the hash of its dataset.

    Args:
        repo: A checkout, or the URL of a git repository; empty for the checkout we are in.
        revision: Branch, tag or commit.

    Raises:
        AxonError: ``DATA_REPO`` where there is no such repository, ``DATA_REVISION_MISSING`` for an unknown revision,
            ``DATA_NOT_VERSIONED`` where it has no ``data.dvc``.
    """
    with _revision_files(repo, revision) as fs:
        return _resolved(fs, _pointer(fs))


def get_revision(repo: str, revision: str, out: Path) -> DataRevision:
    """Write the dataset of a revision to ``out``, from the cache or the remote; every byte is what ``data.dvc``
    promises.

    Raises:
        AxonError: ``DATA_NOT_CACHED``, ``DATA_REMOTE_DENIED``, ``DATA_REMOTE_FAILED``, ``DATA_DAMAGED``, or those of
            `resolve`.
    """
    with _revision_files(repo, revision) as fs:
        found = _resolved(fs, _pointer(fs))
        with _remote_errors(found):
            fs.get("data/", str(out), recursive=True)
    if (actual := tree_md5(out)) != found.md5:
        message = f"what came for revision {found.commit} has the hash {actual}, data.dvc says {found.md5}"
        raise AxonError(
            "DATA_DAMAGED",
            message,
            "a file on the remote or in the DVC cache is damaged: push it again from a good copy",
        )
    return found


def pull(repo: Path, revision: str) -> DataRevision:
    """Make ``data`` and ``data.dvc`` of a checkout those of ``revision``, verified.

    Raises:
        AxonError: ``DATA_CHANGED`` where ``data`` holds something that no version has, or those of `get_revision` and
            `verify_dataset`.
    """
    refuse_unsaved(repo)
    with _revision_files(str(repo), revision) as fs:
        pointer = _pointer(fs)
    with whole_folder(repo / "data") as part:
        found = get_revision(str(repo), revision, part)
        verify_dataset(part)
    (repo / "data.dvc").write_text(pointer)
    with _dvc(repo) as dvc:
        dvc.commit(_target(repo), force=True)
    return found


def push(repo: Path) -> None:
    """Put ``data`` into the DVC cache and push it to the default remote.

    Raises:
        AxonError: ``DATA_CHANGED`` where ``data`` is not what ``data.dvc`` names, ``DATASET_MISSING`` where it is not
            there, ``DATA_REMOTE_DENIED`` or ``DATA_REMOTE_FAILED``.
    """
    if not (repo / "data").is_dir():
        raise AxonError("DATASET_MISSING", f"no dataset at {repo / 'data'}", "run `make data` or `axon dataset pull`")
    with _dvc(repo) as dvc:
        if _differs(dvc.status(targets=[_target(repo)])):
            raise AxonError(
                "DATA_CHANGED",
                "data/ is not what data.dvc names",
                "run `make data`, or `dvc add data` for a new version",
            )
        dvc.commit(_target(repo), force=True)
        with _remote_errors(None):
            dvc.push(targets=[_target(repo)])


def record(repo: Path) -> str:
    """Make what is in ``data`` the version that ``data.dvc`` names. Returns DVC's hash. Raises AxonError
    ``DATA_NOT_VERSIONED``.
    """
    with _dvc(repo) as dvc:
        dvc.add(str(repo.resolve() / "data"))
    return _named(repo)


def is_named(repo: Path) -> bool:
    """Whether ``data`` is, file by file, the version that ``data.dvc`` names."""
    return (repo / "data.dvc").is_file() and (repo / "data").is_dir() and tree_md5(repo / "data") == _named(repo)


def _named(repo: Path) -> str:
    return str(yaml.safe_load((repo / "data.dvc").read_text())["outs"][0]["md5"])


def refuse_unversioned(repo: Path) -> None:
    """See that `record` has a DVC repository to make a version in. Raises AxonError ``DATA_NOT_VERSIONED``."""
    from dvc.repo import Repo

    with _dvc_there(repo):
        Repo.find_root(str(repo))


def refuse_unsaved(repo: Path) -> None:
    """See that replacing ``data`` loses nothing. Raises AxonError ``DATA_CHANGED`` or ``DATA_NOT_VERSIONED``."""
    if not (repo / "data").exists():
        return
    if not (repo / "data.dvc").is_file():
        raise AxonError("DATA_CHANGED", f"{repo / 'data'} is in the way and no data.dvc names it", _SAVE)
    with _dvc(repo) as dvc:
        if dvc.status(targets=[_target(repo)]):
            raise AxonError("DATA_CHANGED", f"{repo / 'data'} is in no DVC cache as it is", _SAVE)


def tree_md5(folder: Path) -> str:
    """DVC's hash of a folder: MD5 of the sorted list of its files and their MD5s (`dvc_data.hashfile.tree.Tree`)."""
    files = {path.relative_to(folder).as_posix(): path for path in files_below(folder)}
    tree = [{"md5": _md5(files[name]), "relpath": name} for name in sorted(files)]
    return hashlib.md5(json.dumps(tree, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@contextlib.contextmanager
def _revision_files(repo: str, revision: str) -> Iterator[DVCFileSystem]:
    """The files of a revision, tracked by git or DVC; closed, and a temporary clone removed, at the end."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.repo.open_repo import clean_repos
    from dvc.scm import RevError
    from pygit2 import GitError

    try:
        fs = DVCFileSystem(url=repo or ".", rev=revision)
        # It opens, or clones, the repository when first asked for it.
        fs.repo.get_rev()
    except RevError as error:
        message = f"{revision!r} is no git revision of {repo or 'this repository'}"
        raise AxonError("DATA_REVISION_MISSING", message, "name a commit, tag or branch that is there") from error
    except DvcException as error:
        message = f"{repo or 'this folder'} is no git repository with DVC that can be read: {error}"
        raise AxonError(
            "DATA_REPO", message, "name a checkout or a git URL; run `dvc init` where DVC was never set up"
        ) from error
    except (GitError, OSError) as error:
        # Git refuses another user's repository, and DVC writes into its folder even to read.
        user, group = os.getuid(), os.getgid()
        fix = f"give the checkout to the user who reads it: chown -R {user}:{group} CHECKOUT"
        raise AxonError("DATA_REPO", f"{repo or 'this folder'} cannot be read as user {user}: {error}", fix) from error
    try:
        yield fs
    finally:
        fs.close()
        clean_repos()


def _pointer(fs: DVCFileSystem) -> str:
    try:
        return str(fs.read_text("data.dvc"))
    except FileNotFoundError:
        return ""


def _resolved(fs: DVCFileSystem, pointer: str) -> DataRevision:
    commit = str(fs.repo.get_rev())
    try:
        return DataRevision(commit, str(yaml.safe_load(pointer)["outs"][0]["md5"]))
    except (yaml.YAMLError, KeyError, TypeError, IndexError) as error:
        raise AxonError(
            "DATA_NOT_VERSIONED", f"revision {commit} has no usable data.dvc", "name a revision that has one"
        ) from error


@contextlib.contextmanager
def _remote_errors(revision: DataRevision | None) -> Iterator[None]:
    """Say which of three things is wrong: we may not, we cannot, or it is not there. DVC tells only in the causes of
    its error.
    """
    from botocore.exceptions import BotoCoreError, NoCredentialsError, PartialCredentialsError
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError
    from dvc_objects.errors import ObjectDBError

    try:
        yield
    except (DvcException, DataIndexDirError, ObjectDBError, BotoCoreError, OSError) as error:
        causes = list(_causes(error))
        if any(isinstance(cause, PermissionError | NoCredentialsError | PartialCredentialsError) for cause in causes):
            fix = (
                "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and what they may do with the "
                "bucket"
            )
            raise AxonError("DATA_REMOTE_DENIED", f"the DVC remote refuses us: {causes[-1]}", fix) from error
        if revision is None or any(isinstance(cause, BotoCoreError | ConnectionError) for cause in causes):
            fix = "check the remote's url and endpointurl (`dvc remote list`) and the network"
            raise AxonError("DATA_REMOTE_FAILED", f"the DVC remote cannot be used: {causes[-1]}", fix) from error
        message = (
            f"the data of revision {revision.commit} ({revision.md5}) is neither in the DVC cache nor on the "
            f"remote: {error}"
        )
        raise AxonError("DATA_NOT_CACHED", message, "run `make data`, or configure the remote that holds it") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def _dvc(repo: Path) -> Iterator[Any]:
    """The checkout's DVC repository."""
    from dvc.repo import Repo

    with _dvc_there(repo):
        dvc = Repo(str(repo))
    with dvc:
        yield dvc


@contextlib.contextmanager
def _dvc_there(repo: Path) -> Iterator[None]:
    from dvc.exceptions import NotDvcRepoError

    try:
        yield
    except NotDvcRepoError as error:
        raise AxonError(
            "DATA_NOT_VERSIONED", f"{repo} is not versioned with DVC", "run `git init` and `dvc init` there"
        ) from error


def _target(repo: Path) -> str:
    return str(repo.resolve() / "data.dvc")


def _differs(status: dict[str, list]) -> bool:
    """Whether a file of the data differs; that the cache lacks it is what pushing mends."""
    changes = [item.get("changed outs", {}) for items in status.values() for item in items if isinstance(item, dict)]
    return any(state != "not in cache" for outs in changes for state in outs.values())
