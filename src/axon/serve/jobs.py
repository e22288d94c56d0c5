"""The page's reconstructions: one runs, a few wait, and none outlives its session."""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal

import numpy as np

from axon.dicom.views import View
from axon.errors import AxonError
from axon.geometry.mend import Mend
from axon.pictures import film_pictures, gray_uri
from axon.pretrained import Model
from axon.reconstruct import Reconstruction, read_films, sample, write
from axon.references.registration import Progress, done

State = Literal["waiting", "running", "done", "failed"]
HUNDREDTHS = 100
OUT = "out"
"""Folder of a job's results, as `axon.reconstruct.write` lays them out, and ``dicom.zip``."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What a user asks for; the fields are those of ``axon reconstruct``."""

    samples: int = 1
    seed: int = 0
    trust_views: bool = False
    mends: dict[str, Mend] = field(default_factory=dict)
    view: View | None = None


@dataclass
class Job:
    """A reconstruction on its way.

    Attributes:
        id: Unguessable.
        folder: Its films (until they are read) and its results.
        seen: Monotonic time of the page's last sign of life.
        steps: Sampling steps done.
        result: What the page shows once it is done.
        error: What went wrong.
    """

    id: str
    folder: Path
    order: Order
    seen: float
    state: State = "waiting"
    steps: int = 0
    result: dict[str, Any] = field(default_factory=dict)
    error: AxonError | None = None
    dropped: bool = False


class _DroppedError(Exception):
    """Ends the sampling of a job that nobody wants any more."""


class Jobs:
    """The queue and its one worker.

    Args:
        model: Reconstructs.
        waiting: Jobs that may wait beside the one that runs.
        keep_s: Seconds after the page's last sign of life at which a job and its files go.
    """

    def __init__(self, model: Model, waiting: int, keep_s: float) -> None:
        self.model, self.waiting, self.keep_s = model, waiting, keep_s
        self.root = Path(mkdtemp(prefix="axon-serve-"))
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._worker.start()

    def submit(self, films: dict[str, bytes], order: Order) -> Job:
        """Queue a reconstruction.

        Args:
            films: Content of the film files by view.
            order: What is asked for.

        Raises:
            AxonError: ``SERVE_BUSY``.
        """
        with self._changed:
            if len(self._ahead()) > self.waiting:
                message = f"one reconstruction is running and {self.waiting} are waiting"
                raise AxonError("SERVE_BUSY", message, "try again in a minute")
            name = secrets.token_urlsafe(16)
            job = Job(name, self.root / name, order, time.monotonic())
            (job.folder / "films").mkdir(parents=True)
            for view, content in films.items():
                (job.folder / "films" / view).write_bytes(content)
            self._jobs[name] = job
            self._changed.notify()
        return job

    def find(self, name: str) -> Job:
        """The job, which counts as a sign of life. Raises AxonError ``SERVE_GONE``."""
        with self._changed:
            if name not in self._jobs:
                raise AxonError("SERVE_GONE", "this reconstruction is no longer here", "give the films again")
            self._jobs[name].seen = time.monotonic()
            return self._jobs[name]

    def status(self, job: Job) -> dict[str, Any]:
        """What the page polls."""
        with self._changed:
            ahead = self._ahead()
            return {
                "id": job.id,
                "state": job.state,
                "ahead": ahead.index(job) if job in ahead else 0,
                "step": job.steps,
                "steps": self._steps(job.order),
                "result": job.result,
                "error": job.error and {"code": job.error.code, "message": job.error.message, "fix": job.error.fix},
            }

    def drop(self, name: str) -> None:
        """Forget a job, stop it if it runs, and delete its files; nothing happens where it is gone."""
        with self._changed:
            job = self._jobs.pop(name, None)
            if job is None:
                return
            job.dropped = True
            # The worker deletes the folder of the job that it is at.
            if job.state != "running":
                shutil.rmtree(job.folder, ignore_errors=True)

    def expire(self) -> None:
        """Drop the jobs whose page gave no sign of life for ``keep_s``."""
        now = time.monotonic()
        with self._changed:
            old = [job.id for job in self._jobs.values() if now - job.seen > self.keep_s]
        for name in old:
            self.drop(name)

    def close(self) -> None:
        """Stop the worker and delete every file."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        for name in list(self._jobs):
            self.drop(name)
        self._worker.join()
        shutil.rmtree(self.root, ignore_errors=True)

    def _ahead(self) -> list[Job]:
        """The running job and those that wait, in their order."""
        return [job for job in self._jobs.values() if job.state in ("waiting", "running")]

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._ahead())
                if self._closing:
                    return
                job = self._ahead()[0]
                job.state = "running"
            state: State = "failed"
            try:
                job.result = self._reconstruct(job)
                state = "done"
            except _DroppedError:
                pass
            except AxonError as error:
                job.error = error
            except Exception as error:
                # The page must answer whatever a library raises; the trace is for the terminal.
                _log.exception("a reconstruction failed")
                job.error = AxonError(
                    "SERVE_FAILED",
                    f"the reconstruction failed ({type(error).__name__})",
                    "look at the server's terminal",
                )
            shutil.rmtree(job.folder / "films", ignore_errors=True)
            with self._changed:
                job.state = state
                if job.dropped:
                    shutil.rmtree(job.folder, ignore_errors=True)

    def _reconstruct(self, job: Job) -> dict[str, Any]:
        order = job.order
        frontal, lateral = job.folder / "films" / "frontal", job.folder / "films" / "lateral"
        films = read_films(frontal, lateral if lateral.is_file() else None, order.trust_views, order.mends, order.view)
        with self._counted(job) as progress:
            made = sample(films, self.model.pipeline, order.samples, order.seed, progress=progress)
        record = write(job.folder / OUT, films, self.model, made, order.seed)
        for series in ("dicom", "dicom-sample"):
            if (job.folder / OUT / series).is_dir():
                shutil.make_archive(str(job.folder / OUT / series), "zip", job.folder / OUT, series)
        return _shown(record, made)

    @contextmanager
    def _counted(self, job: Job) -> Iterator[Progress]:
        """Count the calls of the network, one a sampling step, and the hundredths of what references take; stop when
        the job was dropped.
        """
        networks = job.steps

        def step(*_: object) -> None:
            nonlocal networks
            networks += 1
            job.steps = networks
            if job.dropped:
                raise _DroppedError

        def tell(part: str, share: float) -> None:
            if len(self.model.pipeline.library):
                job.steps = networks + int(HUNDREDTHS * done(part, share))
            if job.dropped:
                raise _DroppedError

        hook = self.model.pipeline.unet.register_forward_hook(step)
        try:
            yield tell
        finally:
            hook.remove()

    def _steps(self, order: Order) -> int:
        pipeline = self.model.pipeline
        return pipeline.steps_for(1) + HUNDREDTHS if len(pipeline.library) else pipeline.steps_for(order.samples)


def _shown(record: dict[str, Any], made: Reconstruction) -> dict[str, Any]:
    """The record, the films beside their re-projections, and where the uncertainty's colours end."""
    films = [film_pictures(view, film_UV, made.reprojected[view]) for view, film_UV in made.films.items()]
    for film in films:
        if film["view"] in made.given:
            film["given"] = gray_uri(made.given[film["view"]], 0, 1)
    std = made.output.std_DHW
    return {
        "record": record,
        "films": films,
        "std_top_hu": None if std is None else max(float(np.quantile(std, 0.995)), 1.0),
    }
