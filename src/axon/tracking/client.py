"""The MLflow server or store: its address, its errors, its client, and what a ``models:/`` address names."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from axon.errors import AxonError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def default_tracking_uri(folder: Path) -> str:
    """The SQLite store in ``folder``, as an MLflow tracking URI."""
    return f"sqlite:///{folder.resolve() / 'mlflow.db'}"


def sqlite_path(tracking_uri: str) -> Path | None:
    """The database file of a ``sqlite:///`` URI, None for any other URI."""
    return Path(tracking_uri.removeprefix("sqlite:///")) if tracking_uri.startswith("sqlite:///") else None


@contextlib.contextmanager
def tracking_errors(tracking_uri: str) -> Iterator[None]:
    """Turn an MLflow failure into an AxonError ``TRACKING_FAILED``; MLflow has retried by itself before it raises."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        fix = "check the address, the credentials and that the server runs"
        raise AxonError(
            "TRACKING_FAILED", f"MLflow at {without_credentials(tracking_uri)} failed: {reason}", fix
        ) from error


def without_credentials(uri: str) -> str:
    """``uri`` without user name and password, fit for a log."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else uri


def client(tracking_uri: str) -> MlflowClient:
    """An MLflow client for tracking and registry."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    # After the import, which sets the levels itself.
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


REGISTRY = "models:/"


def refuse_missing_store(tracking_uri: str) -> None:
    """See that the SQLite file to read from is there: MLflow would make an empty one. Raises AxonError
    ``TRACKING_MISSING``.
    """
    path = sqlite_path(tracking_uri)
    if path is not None and not path.is_file():
        raise AxonError(
            "TRACKING_MISSING",
            f"no MLflow database at {path}",
            "check --tracking-uri: sqlite:////folder/mlflow.db has four slashes",
        )


def parse_uri(uri: str) -> tuple[str, str, str]:
    """Name, alias and version number of a ``models:/`` URI; one of the last two is empty."""
    name, at, alias = uri.removeprefix(REGISTRY).partition("@")
    number = ""
    if not at:
        name, _, number = name.partition("/")
    if not uri.startswith(REGISTRY) or not name or not (alias or number.isdecimal()):
        raise AxonError(
            "MODEL_URI", f"{uri!r} names no registered version", "write models:/NAME@ALIAS or models:/NAME/VERSION"
        )
    return name, alias, number


def resolve(mlflow: MlflowClient, uri: str) -> ModelVersion:
    """The registered version that a ``models:/`` URI names.

    Raises:
        AxonError: ``MODEL_URI``.
        MlflowException: As the client; see `tracking_errors`.
    """
    name, alias, number = parse_uri(uri)
    return mlflow.get_model_version_by_alias(name, alias) if alias else mlflow.get_model_version(name, number)
