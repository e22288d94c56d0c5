"""What a machine must have, as one list of checks: before a run those that it needs, for ``axon doctor`` all of them.

A check says what it found, returns the `AxonError` of what is only worth a warning, and raises that of what is wrong.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from axon.compute.devices import gpu_memory, require_gpu
from axon.config import Config
from axon.errors import AxonError, missing_extras
from axon.orchestration.alert import ALERT_URL, check_url
from axon.orchestration.probes import check_dvc_remote, check_mlflow_artifacts
from axon.orchestration.processes import without_secrets
from axon.orchestration.trainjob import TrainJobs
from axon.tracking.client import ask, client, sqlite_path, tracking_errors, without_credentials

MIN_FREE_BYTES = 2 * 1024**3
MIN_MEMORY_BYTES = 4 * 1024**3
MAX_SKEW_S = 300
"""S3 refuses a request that is 15 minutes off, and tokens end early before that."""
NETWORK_S = 15.0
"""All checks that ask somebody else have this long together."""
KUBEFLOW, KUBEFLOW_TOKEN, KUBEFLOW_CA = "KF_PIPELINES_ENDPOINT", "AXON_KFP_TOKEN", "AXON_KFP_CA"
Severity = Literal["fine", "warning", "error"]


@dataclass(frozen=True)
class Wanted:
    """What somebody wants of this machine.

    Attributes:
        tracking_uri: MLflow; None where nobody wants it.
        experiment: The MLflow experiment whose artifacts are written.
        dataset_repo: Checkout with the dataset's ``data.dvc``; empty for the one we are in.
        versioned: Whether the data come from that checkout and its DVC remote.
        folder: Where results go.
        config: What will be trained.
    """

    tracking_uri: str | None = None
    experiment: str = "axon"
    dataset_repo: str = ""
    versioned: bool = True
    folder: str = "."
    config: Config = field(default_factory=Config)


@dataclass(frozen=True)
class Check:
    """One line of the list.

    Attributes:
        name: What is looked at.
        look: Looks, see the module's text.
        run: Whether a run of the pipeline needs it.
        asks: Whether it asks another process or machine, which may never answer.
    """

    name: str
    look: Callable[[Wanted], str | AxonError]
    run: bool = False
    asks: bool = False


@dataclass(frozen=True)
class Finding:
    """What a check says: its state, what it found, and where that is not fine its error's code and what to do."""

    name: str
    state: Severity
    found: str
    code: str = ""
    fix: str = ""


def problems(needs: Wanted) -> Iterator[AxonError]:
    """What of the list stops a run of the pipeline."""
    for check in CHECKS:
        if check.run:
            try:
                check.look(needs)
            except AxonError as problem:
                yield problem


def examine(needs: Wanted) -> list[Finding]:
    """Every check of the list; those that ask somebody have `NETWORK_S` together. No finding holds a secret or a
    folder's name, which may be a person's.
    """
    findings = {check.name: _finding(check, needs) for check in CHECKS if not check.asks}
    asked: dict[str, list[Finding]] = {check.name: [] for check in CHECKS if check.asks}
    # Not a pool, whose threads Python waits for at the end.
    threads = [
        threading.Thread(target=lambda check=check: asked[check.name].append(_finding(check, needs)), daemon=True)
        for check in CHECKS
        if check.asks
    ]
    end = time.monotonic() + NETWORK_S
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    silent = AxonError("NO_ANSWER", f"no answer within {NETWORK_S:.0f} s", "check the address, the network and a proxy")
    findings |= {name: found[0] if found else _told(name, "error", silent) for name, found in asked.items()}
    return [findings[check.name] for check in CHECKS]


def _finding(check: Check, needs: Wanted) -> Finding:
    try:
        with missing_extras():
            found = check.look(needs)
    except AxonError as problem:
        return _told(check.name, "error", problem)
    except Exception as error:
        # A check that breaks must not hide what the others found; its text may hold anything.
        broken = AxonError("CHECK_FAILED", f"the check broke: {type(error).__name__}", "report it, with this line")
        return _told(check.name, "error", broken)
    if isinstance(found, AxonError):
        return _told(check.name, "warning", found)
    return Finding(check.name, "fine", _shown(found))


def _told(name: str, state: Severity, problem: AxonError) -> Finding:
    return Finding(name, state, _shown(problem.message), problem.code, _shown(problem.fix))


def _shown(text: str) -> str:
    """``text`` without the values of secret variables, credentials in addresses and folders."""
    text = without_secrets(text)
    for folder in sorted((str(Path.cwd()), tempfile.gettempdir(), str(Path.home())), key=len, reverse=True):
        text = text.replace(folder, "...") if len(folder) > 1 else text
    return re.sub(r"(?<![\w:/.])(sqlite:///)?/?(?:[^/\s'\"]*/){2,}", r"\1.../", text)


def _python(_needs: Wanted) -> str | AxonError:
    found = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        return found
    return AxonError("PYTHON_UNTESTED", f"{found}, which is not tested", "use Python 3.11 or 3.12")


def _torch(_needs: Wanted) -> str | AxonError:
    try:
        import torch
    except (ImportError, OSError) as error:
        fix = "install it again: make install, or python -m pip install --force-reinstall torch"
        raise AxonError("TORCH_BROKEN", f"torch cannot be imported: {error}", fix) from error
    if torch.cuda.is_available():
        return f"torch {torch.__version__}, {torch.cuda.device_count()} GPU, {torch.cuda.get_device_name()}"
    if count := len(gpu_memory()):
        fix = "install the build of torch for your CUDA driver"
        return AxonError("GPU_UNUSED", f"torch {torch.__version__} cannot use the {count} GPUs of the driver", fix)
    return f"torch {torch.__version__} on the CPU, {os.cpu_count()} cores"


def _gpu(needs: Wanted) -> str:
    require_gpu(needs.config)
    gpus = ", ".join(f"{size / 1024**3:.0f} GiB" for size in gpu_memory())
    return gpus or "none, and none is asked for"


def _memory(_needs: Wanted) -> str | AxonError:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):
        # What a container may take; "max" where there is no limit.
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    found = f"{total / 1024**3:.1f} GiB of memory"
    if total >= MIN_MEMORY_BYTES:
        return found
    return AxonError("MEMORY_LITTLE", found, f"training and evaluation want {MIN_MEMORY_BYTES / 1024**3:.0f} GiB")


def _storage(needs: Wanted) -> str:
    root, folder = needs.folder, Path(needs.folder)
    if not root or not _writable(folder):
        raise AxonError(
            "CHECKPOINT_ROOT",
            f"checkpoint_root {root!r} cannot be written",
            "name a folder that outlives the run and may be written",
        )
    return _free(folder, root)


def _temporary(_needs: Wanted) -> str:
    folder = Path(tempfile.gettempdir())
    if not _writable(folder):
        raise AxonError("CANNOT_WRITE", f"{folder} cannot be written", "set TMPDIR to a folder that you may write")
    return _free(folder, "TMPDIR")


def _free(folder: Path, name: str) -> str:
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        need = f"{MIN_FREE_BYTES / 1024**3:.0f} GiB"
        raise AxonError(
            "DISK_FULL", f"{free / 1024**3:.1f} GiB are free at {name}", f"free some space: at least {need} are needed"
        )
    return f"may be written, {free / 1024**3:.0f} GiB free"


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _model(_needs: Wanted) -> str:
    from axon import pretrained

    pretrained.path()
    return f"{pretrained.SHIPPED}: every file is as its list says"


def _mlflow(needs: Wanted) -> str:
    uri = needs.tracking_uri
    if uri is None:
        return "not asked for: MLFLOW_TRACKING_URI is not set"
    check_tracking(uri)
    database = sqlite_path(uri)
    if database is not None and not database.is_file():
        return "a SQLite file that the first run makes"
    with tracking_errors(uri):
        # A store that another version has made, and that was not migrated, refuses this.
        client(uri).search_experiments(max_results=1)
    check_mlflow_artifacts(uri, needs.experiment)
    here, there = version("mlflow"), "unknown"
    if database is not None:
        return f"a SQLite file that version {here} can use"
    address = f"{without_credentials(uri).rstrip('/')}/version"
    broken = contextlib.suppress(OSError, HTTPException)
    with broken, urllib.request.urlopen(address, timeout=3) as answer:  # noqa: S310
        there = answer.read(40).decode(errors="replace").strip()
    return f"answers; its version is {there}, this one's {here}"


def check_tracking(tracking_uri: str, timeout_s: float = 5.0) -> None:
    """See that the MLflow server answers, as far as that can be told without MLflow's own log-in and certificates, or
    that the SQLite file can be written.

    Raises:
        AxonError: ``TRACKING_URI`` or ``TRACKING_UNREACHABLE``.
    """
    shown = without_credentials(tracking_uri)
    if database := sqlite_path(tracking_uri):
        if not _writable(database.parent):
            raise AxonError(
                "TRACKING_UNREACHABLE", f"the folder of {shown} cannot be written", "name a folder that you may write"
            )
        return
    if not tracking_uri.startswith(("http://", "https://")):
        raise AxonError(
            "TRACKING_URI", f"the tracking URI {shown!r} is neither http(s) nor sqlite:///", "name the MLflow server"
        )
    try:
        ask(f"{shown.rstrip('/')}/health", timeout_s)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise AxonError(
            "TRACKING_UNREACHABLE",
            f"no MLflow server answers at {shown}: {reason}",
            "start it, or correct tracking_uri",
        ) from error


def _dvc(needs: Wanted) -> str | AxonError:
    return check_dvc_remote(needs.dataset_repo) if needs.versioned else "not asked for: the data are in a folder"


def _nodes(needs: Wanted) -> str:
    if needs.config.training.nodes == 1:
        return "not asked for: one machine trains"
    TrainJobs()
    return "TrainJobs may be made"


def _kubeflow(_needs: Wanted) -> str:
    host = os.environ.get(KUBEFLOW, "").rstrip("/")
    if not host:
        return f"not asked for: {KUBEFLOW} is not set"
    token = os.environ.get(KUBEFLOW_TOKEN, "").strip()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        trusted = ssl.create_default_context(cafile=os.environ.get(KUBEFLOW_CA))
        request = urllib.request.Request(f"{host}/apis/v2beta1/healthz", headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=5, context=trusted) as answer:  # noqa: S310
            kind = answer.headers.get_content_type()
    except urllib.error.HTTPError as error:
        fix = f"check {KUBEFLOW_TOKEN}, which may have expired" if error.code in (401, 403) else "see the server's log"
        raise AxonError("CLUSTER_REFUSED", f"it answered {error.code}", fix) from error
    except OSError as error:
        fix = f"check {KUBEFLOW}, {KUBEFLOW_CA} and that the port-forward runs"
        raise AxonError("CLUSTER_UNREACHABLE", f"no answer: {getattr(error, 'reason', error)}", fix) from error
    except (HTTPException, ValueError) as error:  # Its text repeats the header.
        malformed = f"{KUBEFLOW} is no address, or {KUBEFLOW_TOKEN} no token"
        raise AxonError("CLUSTER_UNREACHABLE", malformed, "correct them") from error
    if kind != "application/json":
        todo = f"set {KUBEFLOW_TOKEN} to a token that has not expired; without a log-in, check {KUBEFLOW}"
        raise AxonError("CLUSTER_LOGIN", f"it answers with {kind}, as a page to log in does", todo)
    return "answers"


def _engine(_needs: Wanted) -> str | AxonError:
    engine = os.environ.get("DOCKER", "docker")
    fix = "start a Docker-compatible engine, or set DOCKER=podman: only `axon pipeline run --containers` needs one"
    command = [engine, "version", "--format", "{{.Server.Version}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return AxonError("ENGINE_MISSING", f"no image engine: {type(error).__name__}", fix)
    if done.returncode:
        return AxonError("ENGINE_MISSING", "the image engine does not answer", fix)
    return f"version {done.stdout.strip()}"


def _alerts(_needs: Wanted) -> str:
    url = os.environ.get(ALERT_URL, "")
    check_url(url)
    return f"{ALERT_URL} is an address" if url else f"not asked for: {ALERT_URL} is not set"


def _clock(needs: Wanted) -> str | AxonError:
    for url in (needs.tracking_uri or "", os.environ.get(KUBEFLOW, ""), os.environ.get("AWS_ENDPOINT_URL", "")):
        if (there := _date_of(url)) is not None:
            off = time.time() - there
            if abs(off) > MAX_SKEW_S:
                fix = "set the clock, with NTP"
                raise AxonError("CLOCK_SKEW", f"this clock is {off:+.0f} s off that of a server", fix)
            return "agrees with that of a server"
    if time.time() < Path(__file__).stat().st_mtime:
        return AxonError("CLOCK_SKEW", "this clock is behind the files of this package", "set the clock, with NTP")
    return "no server to compare it with; not behind the files of this package"


def _date_of(url: str) -> float | None:
    """When a server says that it answered, in seconds; None where it says nothing."""
    if not url.startswith(("http://", "https://")):
        return None
    answer = None
    try:
        with urllib.request.urlopen(without_credentials(url), timeout=3) as opened:  # noqa: S310
            answer = opened.headers.get("Date")
    except urllib.error.HTTPError as refused:
        answer = refused.headers.get("Date")
    except (OSError, HTTPException, ValueError):
        return None
    return parsedate_to_datetime(answer).timestamp() if answer else None


CHECKS = (
    Check("Python", _python),
    Check("torch", _torch),
    Check("GPU", _gpu, run=True),
    Check("memory", _memory),
    Check("results' folder", _storage, run=True),
    Check("temporary folder", _temporary),
    Check("packaged model", _model),
    Check("MLflow", _mlflow, run=True, asks=True),
    Check("DVC remote", _dvc, run=True, asks=True),
    Check("several nodes", _nodes, run=True, asks=True),
    Check("Kubeflow", _kubeflow, asks=True),
    Check("image engine", _engine, asks=True),
    Check("alerts", _alerts, run=True),
    Check("clock", _clock, run=True, asks=True),
)
