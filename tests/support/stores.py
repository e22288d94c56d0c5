"""MLflow's stores, copied from one that a process makes once: its tables take MLflow seconds."""

import functools
from pathlib import Path
from tempfile import TemporaryDirectory

from axon.tracking.client import client, default_tracking_uri


@functools.cache
def _empty() -> bytes:
    with TemporaryDirectory() as folder:
        client(default_tracking_uri(Path(folder))).search_experiments()
        return (Path(folder) / "mlflow.db").read_bytes()


def new_store(folder: Path) -> str:
    """The tracking URI of an empty store in a folder, which is made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mlflow.db").write_bytes(_empty())
    return default_tracking_uri(folder)
