"""The MLflow server or store: its address, its errors, its client, and what a ``models:/`` address names."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import ssl
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import urlsplit

from axon.errors import AxonError, missing_extras

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
    """Turn a failure of MLflow or of the database under it into an AxonError ``TRACKING_FAILED``; MLflow has retried by
    itself before it raises.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        fix = "check the address, the credentials and that the server runs, or that no other process locks the database"
        if isinstance(error, MlflowException) and error.error_code in _ANSWERED:
            fix = "it answers, but does not hold that: check the name, the alias and the version"
        raise _failed(tracking_uri, error, fix) from error


def _failed(tracking_uri: str, error: Exception, fix: str) -> AxonError:
    reason = masked((str(error).splitlines() or [type(error).__name__])[0], tracking_uri)
    return AxonError("TRACKING_FAILED", f"MLflow at {without_credentials(tracking_uri)} failed: {reason}", fix)


def masked(text: str, uri: str) -> str:
    """``text`` of an error of MLflow, which repeats the address ``uri``, and its query alone, without credentials."""
    shown = without_credentials(uri)
    for secret, instead in ((uri.rstrip("/"), shown), (uri.partition("?")[2], "***")):
        text = text.replace(secret, instead) if secret and shown != uri else text
    return text


def without_credentials(uri: str) -> str:
    """``uri`` without user name, password and query, fit for a log; a path, that of a SQLite file too, is whole."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(uri)
        if parts.netloc:
            return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    if uri.startswith(("/", ".", "sqlite:///", "file:///")):
        return uri
    # It is no address; what is typed before an @ may be a password all the same, but in git@host:path it is none.
    bare = re.split("[?#]", uri)[0]
    return bare.rpartition("@")[2] if re.match("[^/@]*:", uri) else bare


HASTY = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""How long MLflow is waited for where somebody waits, in its variables; MLflow's own are 120 s, 7 times."""


def client(tracking_uri: str) -> MlflowClient:
    """An MLflow client for tracking and registry; of a server at an address where one was seen to answer, unless the
    user's own variables (`HASTY`) say how long to wait.

    Raises:
        AxonError: ``TRACKING_URI`` for an address that is none; ``TRACKING_FAILED`` for one where no server answers, or
            whose driver or database cannot be used; ``EXTRA_MISSING`` where MLflow is not installed.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Its own links lead to the view for traces of language models; `run_link` has the one that shows a training.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    with missing_extras():
        from mlflow import MlflowClient

    if not ("://" in tracking_uri or tracking_uri.startswith(_OTHER_STORES) or Path(tracking_uri).is_dir()):
        message = f"{without_credentials(tracking_uri)!r} is no address of an MLflow"
        raise AxonError("TRACKING_URI", message, "say sqlite:///FOLDER/mlflow.db, or http:// and where its server is")
    # After the import, which sets the levels itself.
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if tracking_uri.startswith("http") and not HASTY.keys() & os.environ.keys():
        _see_that_it_answers(tracking_uri)
    try:
        with tracking_errors(tracking_uri):
            return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    except (ImportError, ValueError) as error:
        fix = "check --tracking-uri; a database needs its driver: python -m pip install psycopg, or as its name says"
        raise _failed(tracking_uri, error, fix) from error


_OTHER_STORES = ("file:", "databricks")
"""How what MLflow takes without two slashes begins."""


@functools.cache
def _see_that_it_answers(tracking_uri: str) -> None:
    """To find out that nobody is there takes MLflow four minutes; any answer will do."""
    asked = without_credentials(tracking_uri)
    for tries_left in range(int(HASTY["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]), -1, -1):
        try:
            ask(asked, float(HASTY["MLFLOW_HTTP_REQUEST_TIMEOUT"]))
            return
        except (HTTPError, HTTPException, ValueError):
            return  # it answers, or it is no address, as MLflow will say
        except OSError as error:
            if not tries_left:
                raise _failed(tracking_uri, error, "check the address and that the server runs") from None
            time.sleep(1)


def ask(address: str, timeout_s: float) -> None:
    """See that somebody answers, be it with a refusal. Raises OSError, HTTPException or ValueError where nobody does,
    and HTTPError of a server, or of what is before it, that cannot.
    """
    try:
        urllib.request.urlopen(address, timeout=timeout_s).close()  # noqa: S310
    except HTTPError as error:
        if error.code >= 500:
            raise
    except OSError as error:
        # Its certificate, and that which it asks for, are MLflow's to judge, which has variables for them.
        if not isinstance(error, ssl.SSLError) and not isinstance(getattr(error, "reason", None), ssl.SSLError):
            raise


REGISTRY = "models:/"
_ANSWERED = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


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
