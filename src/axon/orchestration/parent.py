"""The model that a training goes on from: which one, and its line of ancestors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from axon import pretrained
from axon.config import Config
from axon.errors import AxonError, require
from axon.tracking.client import REGISTRY, client, parse_uri, refuse_missing_store, resolve, tracking_errors
from axon.tracking.runs import DATA_REVISION

PARENT = "axon.parent"
"""Tag of a registered version and of a pipeline run: the model that its training went on from; empty for none."""
PARENT_DATA = "axon.parent_data_revision"
"""Tag of a pipeline run: the data that the parent was trained on."""
_FIX = "correct training.init_from, or start from scratch: init_from: ''"


def pinned(config: Config, tracking_uri: str) -> str:
    """What ``training.init_from`` names now, so that every step of a run means the same: ``models:/NAME/VERSION``, or a
    folder with its hash; empty where this run starts from scratch, which it does where an alias names nothing yet, and
    every ``training.scratch_every``-th time in a line.

    Raises:
        AxonError: ``PARENT_MISSING`` or those of `axon.pretrained.verify` and of the registry.
    """
    asked, every = config.training.init_from, config.training.scratch_every
    if not asked:
        return ""
    if not asked.startswith(REGISTRY):
        folder, _, sha256 = asked.partition("#")
        found = pretrained.verify(Path(folder))
        require(sha256 in ("", found), "PARENT_MISSING", "training.init_from names a folder that was changed", _FIX)
        return f"{folder}#{found}"
    version = _version(asked, tracking_uri)
    if not version:
        return ""
    name = parse_uri(asked)[0]
    line = ancestors(f"{REGISTRY}{name}/{version}", tracking_uri)
    return "" if every and len(line) >= every else line[0]


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


def data_of(uri: str, tracking_uri: str) -> str:
    """The revision of the data that a registered version was trained on; empty where nobody says."""
    if not uri.startswith(REGISTRY):
        return ""
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        return str(resolve(mlflow, uri).tags.get(DATA_REVISION, ""))


def ancestors(uri: str, tracking_uri: str) -> list[str]:
    """A registered version and those that it goes back to, the youngest first; of one that was deleted no further."""
    from mlflow.exceptions import MlflowException

    mlflow, line = client(tracking_uri), [uri]
    with tracking_errors(tracking_uri):
        while line[-1].startswith(REGISTRY):
            try:
                parent = resolve(mlflow, line[-1]).tags.get(PARENT, "")
            except MlflowException as error:
                if error.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                    raise
                break
            if not parent or parent in line:
                break
            line.append(parent)
    return line


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
    with pretrained.folder_of(source, tracking_uri) as (folder, _, _):
        found = pretrained.verify(folder)
        require(sha256 in ("", found), "PARENT_MISSING", "training.init_from names a folder that was changed", _FIX)
        yield folder
