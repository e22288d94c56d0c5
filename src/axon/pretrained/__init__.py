"""Model folders: the one that comes with the package, one of yours, or one from the registry; each checked before it is
loaded.

The model as a pipeline is in ``inference``; putting one into the registry is for ``registry``.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from axon.errors import AxonError, require
from axon.files import sha256_file, walked
from axon.tracking.client import REGISTRY, parse_uri, refuse_missing_store

if TYPE_CHECKING:
    import torch

    from axon.compute.devices import Precision
    from axon.inference import AxonPipeline

_log = logging.getLogger(__name__)
SHIPPED = "axon-small"
SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Model:
    """A loaded model and what identifies it.

    Attributes:
        pipeline: Ready to run, on its device.
        name: ``axon-small``, the registered name, or ``axon`` for a folder.
        version: The registry's version number; for a folder the first 12 digits of ``sha256``.
        sha256: Of the list of its files' SHA-256, in the layout of ``sha256sum``.
        verified: Whether the folder holds that list, and it fits.
    """

    pipeline: AxonPipeline
    name: str
    version: str
    sha256: str
    verified: bool = True

    @classmethod
    def of(cls, pipeline: AxonPipeline) -> Model:
        """The model that a pipeline is of; it was loaded by `load` or `pipeline`.

        Raises:
            AxonError: ``MODEL_UNKNOWN``.
        """
        fix = "load it with axon.load, or give the model's folder"
        if pipeline.origin is None:
            raise AxonError("MODEL_UNKNOWN", "the pipeline does not say which model it is", fix)
        return cls(pipeline, *pipeline.origin)


def path() -> Path:
    """The model folder that comes with the package.

    Raises:
        AxonError: ``MODEL_MISSING`` where it or one of its files is not there, ``MODEL_DAMAGED`` where a file was
            changed.
    """
    folder = Path(__file__).with_name(SHIPPED)
    if not (folder / SUMS).is_file():
        fix = "name a model: a folder such as runs/demo/pipeline/*/evaluate/evaluation/model, or models:/axon@champion"
        raise AxonError("MODEL_MISSING", f"this installation holds no {SHIPPED!r}", fix)
    verify(folder)
    return folder


def load(
    source: str | None,
    tracking_uri: str | None = None,
    device: torch.device | None = None,
    precision: Precision = "auto",
    compile: bool = False,
) -> Model:
    """Load a model.

    Args:
        source: A folder, ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or None for the one that comes with the
            package.
        tracking_uri: Where the registry is; only for ``models:/``.
        device: Where it computes; None for the CPU.
        precision, compile: How, as of `axon.inference.AxonPipeline.prepare`.

    Raises:
        AxonError: ``MODEL_MISSING``, ``MODEL_DAMAGED``, ``MODEL_UNTRUSTED``, ``MODEL_URI``, ``TRACKING_URI``,
            ``TRACKING_MISSING``, ``TRACKING_FAILED`` or ``PRECISION_MISSING``.
    """
    with folder_of(source, tracking_uri) as (folder, name, version):
        sha256, verified = verify(folder), (folder / SUMS).is_file()
        if not verified:
            _log.warning("the model is unverified: its folder has no %s", SUMS)
        pipeline = _load_pipeline(folder)
        pipeline = pipeline.prepare(device or pipeline.device, precision, compile)
        pipeline.origin = (name, version or sha256[:12], sha256, verified)
        return Model.of(pipeline)


def pipeline(source: str | Path | None = None, tracking_uri: str | None = None) -> AxonPipeline:
    """The pipeline of a model, which `axon.load` is: call it with films as arrays, see `axon.inference.AxonPipeline`,
    or give it to `axon.from_films` as its model.

    Args:
        source: A folder, ``"axon-small"`` (the default, which comes with the package), ``"models:/NAME@ALIAS"`` or
            ``"models:/NAME/VERSION"``.
        tracking_uri: Where the registry is (default: $MLFLOW_TRACKING_URI).

    Raises:
        AxonError: As `load`.
    """
    return load(None if source is None else str(source), tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")).pipeline


@contextmanager
def folder_of(source: str | None, tracking_uri: str | None = None) -> Iterator[tuple[Path, str, str]]:
    """The folder of a model, its name and its version in the registry (empty for a folder); a download lives as long as
    the block.

    Raises:
        AxonError: As `load`.
    """
    if source is None or source == SHIPPED:
        yield path(), SHIPPED, ""
    elif source.startswith(REGISTRY):
        with TemporaryDirectory() as scratch:
            yield _download(source, tracking_uri, scratch)
    else:
        yield Path(source), "axon", ""


def seal(folder: Path) -> None:
    """Write ``SHA256SUMS`` over every file of the folder; ``sha256sum -c SHA256SUMS`` checks it too."""
    (folder / SUMS).write_text(_sums(folder))


def verify(folder: Path) -> str:
    """Check every file against ``SHA256SUMS`` where the folder has one, and give the model's own SHA-256.

    The list names every file that is there, and nothing else.

    Raises:
        AxonError: ``MODEL_MISSING`` or ``MODEL_DAMAGED``, naming the file.
    """
    fix = "copy or install the model again"
    if not (folder / "model_index.json").is_file():
        raise AxonError(
            "MODEL_MISSING",
            f"no AXON model at {folder}: model_index.json is missing",
            "name a folder that holds one, whole",
        )
    if not (folder / SUMS).is_file():
        return hashlib.sha256(_sums(folder).encode()).hexdigest()
    lines = (line.partition("  ") for line in (folder / SUMS).read_text(errors="replace").splitlines())
    listed = {name: expected for expected, _, name in lines}
    files = _files(folder)
    if missing := sorted(listed.keys() - files.keys()):
        raise AxonError("MODEL_MISSING", f"the model at {folder} lacks {missing[0] or 'what its list names'}", fix)
    if strange := sorted(files.keys() - listed.keys()):
        raise AxonError("MODEL_DAMAGED", f"{SUMS} of the model at {folder} does not list {strange[0]}", fix)
    for name, expected in listed.items():
        if sha256_file(files[name]) != expected:
            raise AxonError("MODEL_DAMAGED", f"{name} of the model at {folder} is not the file that {SUMS} lists", fix)
    return sha256_file(folder / SUMS)


def _files(folder: Path) -> dict[str, Path]:
    """Every file of the folder but its list, by name."""
    inner = (Path(place, name) for place, folders, _ in walked(folder) for name in folders)
    linked = [path.name for path in inner if path.is_symlink()]
    require(not linked, "MODEL_DAMAGED", f"{linked[:1]} of the model is a link to a folder", "copy the folder itself")
    files = [Path(place, name) for place, _, names in walked(folder) for name in names]
    odd = [path.name for path in files if not path.is_file()]
    require(not odd, "MODEL_DAMAGED", f"{odd[:1]} of the model is no file", "copy the model again")
    return {file.relative_to(folder).as_posix(): file for file in sorted(files) if file != folder / SUMS}


def _sums(folder: Path) -> str:
    return "".join(f"{sha256_file(file)}  {name}\n" for name, file in _files(folder).items())


def _load_pipeline(folder: Path) -> AxonPipeline:
    from axon.compute.bases import quiet
    from axon.inference import AxonPipeline

    quiet()
    try:
        return AxonPipeline.from_pretrained(folder)
    except AxonError:
        raise
    except Exception as error:
        # A folder without checksums can be damaged in as many ways as three libraries have exceptions.
        reason = (str(error).splitlines() or [""])[0]
        message = f"the model at {folder} cannot be loaded ({type(error).__name__}: {reason})"
        raise AxonError("MODEL_DAMAGED", message, "copy the model again") from error


def _download(uri: str, tracking_uri: str | None, scratch: str) -> tuple[Path, str, str]:
    """Fetch a registered model's folder; returns it, the name and the version."""
    from axon.tracking.client import client, resolve, tracking_errors

    if not tracking_uri:
        raise AxonError("TRACKING_URI", f"{uri} needs a registry", "give --tracking-uri, or set MLFLOW_TRACKING_URI")
    parse_uri(uri)
    refuse_missing_store(tracking_uri)
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        version = resolve(mlflow, uri)
        folder = mlflow.download_artifacts(version.run_id, "model/artifacts/model", scratch)
    return Path(folder), str(version.name), str(version.version)
