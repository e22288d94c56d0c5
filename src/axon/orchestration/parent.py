"""The model that a training goes on from: which one, and whether it is there still."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from shutil import copytree

from axon import pretrained
from axon.config import Config
from axon.errors import AxonError, require
from axon.files import whole_folder
from axon.registry.gate import MODEL
from axon.tracking.client import REGISTRY, client, parse_uri, refuse_missing_store, resolve, tracking_errors
from axon.tracking.runs import DATA_REVISION, WORK_KEY

PARENT = "axon.parent"
"""Tag of a registered version and of a pipeline run: the model that its training went on from; empty for none."""
PARENT_DATA = "axon.parent_data_revision"
"""Tag of a pipeline run: the data that the parent was trained on."""
_FIX = "correct training.init_from, or start from scratch: init_from: ''"


def pinned(config: Config, tracking_uri: str, experiment: str) -> str:
    """What ``training.init_from`` names now, so that every step of a run means the same: ``models:/NAME/VERSION``, or a
    folder with its hash; empty where this run starts from scratch, which it does where an alias names nothing yet, and
    every ``training.scratch_every``-th time.

    Args:
        config: As it was asked for.
        tracking_uri: MLflow tracking and registry.
        experiment: MLflow experiment of the runs that are counted.

    Raises:
        AxonError: ``PARENT_MISSING`` or those of `axon.pretrained.verify` and of the registry.
    """
    asked, every = config.training.init_from, config.training.scratch_every
    if not asked or (every and _warm_runs(tracking_uri, experiment, every) >= every - 1):
        return ""
    if not asked.startswith(REGISTRY):
        folder, _, sha256 = asked.partition("#")
        found = pretrained.verify(Path(folder))
        require(sha256 in ("", found), "PARENT_MISSING", "training.init_from names a folder that was changed", _FIX)
        return f"{folder}#{found}"
    version = _version(asked, tracking_uri)
    return f"{REGISTRY}{parse_uri(asked)[0]}/{version}" if version else ""


def _warm_runs(tracking_uri: str, experiment: str, most: int) -> int:
    """How many of the last runs that succeeded went on from a model, since one that did not; at most ``most``. Whether
    their models were promoted does not matter.
    """
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        found = mlflow.get_experiment_by_name(experiment)
        if found is None:
            return 0
        query = f"attributes.status = 'FINISHED' and tags.`{WORK_KEY}` LIKE '%'"
        order = ["attributes.end_time DESC"]
        runs = mlflow.search_runs([found.experiment_id], query, max_results=most, order_by=order)
    return len(list(takewhile(lambda run: run.data.tags.get(PARENT), runs)))


def _version(uri: str, tracking_uri: str) -> str:
    """The registered version; empty for an alias that nobody has yet."""
    from mlflow.exceptions import MlflowException

    _, alias, _ = parse_uri(uri)
    refuse_missing_store(tracking_uri)
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        try:
            return str(resolve(mlflow, uri).version)
        except MlflowException as error:
            # The registry says the first for a model without the alias, the second for one that is not there at all.
            unknown = error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
            if alias and unknown:
                return ""
            if unknown:
                raise AxonError("PARENT_MISSING", f"{uri} is not in the registry", _FIX) from error
            raise


def parent_name(uri: str) -> str:
    """What may be told of a parent that `pinned` chose: of a folder its name and hash, not where it lies."""
    folder, hashed, sha256 = uri.partition("#")
    return uri if uri.startswith(REGISTRY) else f"{Path(folder).name}{hashed}{sha256}"


def data_of(uri: str, tracking_uri: str) -> str:
    """The revision of the data that a registered version was trained on; empty where nobody says."""
    if not uri.startswith(REGISTRY):
        return ""
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        return str(resolve(mlflow, uri).tags.get(DATA_REVISION, ""))


def _refuse_gone(uri: str, tracking_uri: str) -> None:
    """A version that is deleted, or whose files are, is told from a registry or a storage that does not answer."""
    _version(uri, tracking_uri)
    mlflow = client(tracking_uri)
    try:
        held = mlflow.list_artifacts(resolve(mlflow, uri).run_id, MODEL)
    except Exception:  # Of whatever kind: each storage has its own, and the first error is the one to show.
        return
    require(bool(held), "PARENT_MISSING", f"training.init_from is gone: the files of {uri} are deleted", _FIX)


@contextmanager
def parent_folder(config: Config, tracking_uri: str) -> Iterator[Path | None]:
    """The folder of the parent that `pinned` chose, None without one; a download lives as long as the block.

    Raises:
        AxonError: ``PARENT_MISSING`` where it was changed or deleted since.
    """
    source, _, sha256 = config.training.init_from.partition("#")
    if not source:
        yield None
        return
    with ExitStack() as stack:
        try:
            folder, _, _ = stack.enter_context(pretrained.folder_of(source, tracking_uri))
            found = pretrained.verify(folder)
        except AxonError as error:
            if error.code == "TRACKING_FAILED" and source.startswith(REGISTRY):
                _refuse_gone(source, tracking_uri)
            if error.code != "MODEL_MISSING":
                raise
            raise AxonError("PARENT_MISSING", f"training.init_from is gone: {error.message}", _FIX) from error
        require(sha256 in ("", found), "PARENT_MISSING", "training.init_from names a folder that was changed", _FIX)
        yield folder


@contextmanager
def kept_parent(config: Config, tracking_uri: str, kept: Path, begun: bool) -> Iterator[Path | None]:
    """`parent_folder`, with what is fetched kept in ``kept``; a training that has begun goes on from there and asks
    nobody.
    """
    if begun and _is_whole(kept):
        yield kept
        return
    with parent_folder(config, tracking_uri) as folder:
        if folder is not None and config.training.init_from.startswith(REGISTRY):
            # Another attempt's hand may be on it, and a training needs no copy to go on.
            with suppress(AxonError, OSError), whole_folder(kept) as part:
                copytree(folder, part, dirs_exist_ok=True)
        yield folder


def _is_whole(folder: Path) -> bool:
    with suppress(AxonError):
        return bool(pretrained.verify(folder))
    return False
