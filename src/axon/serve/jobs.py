"""The page's reconstructions: one runs, a few wait, and none outlives its session."""

from __future__ import annotations

import errno
import logging
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from axon.dicom.views import View
from axon.errors import FULL, AxonError, device_failure, disk_full
from axon.files import Scratch
from axon.geometry.mend import Mend
from axon.pictures import film_pictures, gray_uri
from axon.pretrained import Model
from axon.readers.child import given_up_by
from axon.readers.films import preview_xray
from axon.reconstruct import Reconstruction, read_films, sample, write
from axon.references.registration import OnProgress, done

State = Literal["waiting", "running", "done", "failed"]
HUNDREDTHS = 100
_END_S = 2.5
"""Seconds that the job which runs has to notice that the server ends."""
_PREVIEW_CPU_S = 10
GRACE_S = 5.0
"""For how long a job outlives a page that was left."""
OUT = "out"
"""Folder of a job's results, as `axon.reconstruct.write` lays them out, and ``dicom.zip``."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What a user asks for; the fields are those of ``axon reconstruct``."""

    samples: int = 1
    seed: int = 0
    trust_views: bool = False
    no_level: bool = False
    mends: dict[str, Mend] = field(default_factory=dict)
    view: View | None = None


@dataclass
class Job:
    """A reconstruction on its way.

    Attributes:
        id: Unguessable.
        folder: Its films (until they are read) and its results.
        seen: Monotonic time of the page's last sign of life.
        sampling_steps: How many are done.
        part: What is at work, a name of `axon.references.registration.PARTS`.
        result: What the page shows once it is done.
        error: What went wrong.
        dropped: Nobody wants it any more.
        deadline: Monotonic time at which it is given up.
    """

    id: str
    folder: Path
    order: Order
    seen: float
    state: State = "waiting"
    sampling_steps: int = 0
    part: str = "networks"
    result: dict[str, Any] = field(default_factory=dict)
    error: AxonError | None = None
    dropped: bool = False
    deadline: float = float("inf")


class _DroppedError(Exception):
    """Ends the sampling of a job that nobody wants any more."""


class Jobs:
    """The queue and its one worker.

    Args:
        model: Reconstructs.
        waiting: Jobs that may wait beside the one that runs.
        keep_s: Seconds after the page's last sign of life at which a job and its files go.
        most_s: Seconds that a job may run.
    """

    def __init__(self, model: Model, waiting: int, keep_s: float, most_s: float = float("inf")) -> None:
        self.model, self.waiting, self.keep_s, self.most_s = model, waiting, keep_s, most_s
        self._scratch = Scratch("serve")
        self.root = self._scratch.path
        self._jobs: dict[str, Job] = {}
        self._coming = 0
        self._changed = threading.Condition()
        self._closing = False
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._worker.start()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the queue for a job whose films are on their way; `submit` is called in the block.

        Raises:
            AxonError: ``SERVE_BUSY``.
        """
        with self._changed:
            self._scratch.again()  # what comes is kept there, too
            if len(self._ahead()) + self._coming > self.waiting:
                message = f"one reconstruction is running and {self.waiting} are waiting"
                raise AxonError("SERVE_BUSY", message, "try again in a minute")
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1

    def submit(self, films: dict[str, IO[bytes]], order: Order) -> Job:
        """Queue a reconstruction, in a `place`.

        Args:
            films: The film files by view.
            order: What is asked for.

        Raises:
            OSError: The films cannot be kept; nothing of them is left.
        """
        name = secrets.token_urlsafe(16)
        job = Job(name, self.root / name, order, time.monotonic())
        try:
            for view, film in films.items():
                with (self._folder(job, "films") / view).open("wb") as file:
                    shutil.copyfileobj(film, file)
        except OSError:
            shutil.rmtree(job.folder, ignore_errors=True)
            raise
        with self._changed:
            self._jobs[name] = job
            self._changed.notify()
        return job

    def preview(self, film: IO[bytes]) -> str:
        """A small picture of a film as given, a data URI; nothing of the film is left.

        Raises:
            AxonError: The film cannot be read, or the server ends.
            OSError: It cannot be kept for as long as that takes.
        """
        self._stay()
        with self._changed:
            self._scratch.again()
        with tempfile.TemporaryDirectory(dir=self.root) as folder, given_up_by(self._stay):
            with Path(folder, "film").open("wb") as file:
                shutil.copyfileobj(film, file)
            return gray_uri(preview_xray(Path(folder, "film"), _PREVIEW_CPU_S), 0, 1)

    def _stay(self) -> None:
        if self._closing:
            raise AxonError("SERVE_GONE", "the server ends", "start it again")

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
                "step": job.sampling_steps,
                "steps": self._steps(job.order),
                "part": job.part,
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

    def leave(self, name: str) -> None:
        """Let a job go in `GRACE_S`, unless its page comes back, as one that is loaded again does."""
        with self._changed:
            if job := self._jobs.get(name):
                job.seen = min(job.seen, time.monotonic() - self.keep_s + GRACE_S)

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
        self._worker.join(_END_S)
        self._scratch.remove()

    def _folder(self, job: Job, name: str) -> Path:
        """A folder of a job, for nobody else to read, also where somebody cleared the temporary directory."""
        with self._changed:
            self._scratch.again()
        for folder in (job.folder, job.folder / name):
            folder.mkdir(mode=0o700, exist_ok=True)
        return folder

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
                job.state, job.deadline = "running", time.monotonic() + self.most_s
            state: State = "failed"
            try:
                job.result = self._reconstruct(job)
                state = "done"
            except BaseException as error:  # whatever a library raises, the page answers and the next job has its turn
                job.error = _told(error)
            shutil.rmtree(job.folder / "films", ignore_errors=True)
            with self._changed:
                job.state = state
                if job.dropped:
                    shutil.rmtree(job.folder, ignore_errors=True)

    def _reconstruct(self, job: Job) -> dict[str, Any]:
        order = job.order
        frontal, lateral = job.folder / "films" / "frontal", job.folder / "films" / "lateral"
        given = lateral if lateral.is_file() else None
        with given_up_by(lambda: self._go_on(job)):
            films = read_films(frontal, given, order.trust_views, order.mends, order.view)
        films = replace(films, level=not order.no_level)
        with self._counted(job) as progress:
            made = sample(films, self.model.pipeline, order.samples, order.seed, progress=progress)
        self._go_on(job)
        out = self._folder(job, OUT)
        record = write(out, films, self.model, made, order.seed)
        for series in ("dicom", "dicom-sample"):
            if (out / series).is_dir():
                shutil.make_archive(str(out / series), "zip", out, series)
        return _shown(record, made)

    def _go_on(self, job: Job) -> None:
        """End the work on a job that is dropped or takes too long."""
        if job.dropped:
            raise _DroppedError
        if time.monotonic() > job.deadline:
            message = f"the reconstruction took more than {self.most_s / 60:g} minutes and was ended"
            fix = "ask for fewer samples, or start the server with more --job-minutes"
            raise AxonError("SERVE_TOO_LONG", message, fix)

    @contextmanager
    def _counted(self, job: Job) -> Iterator[OnProgress]:
        """Count the calls of the network, one a sampling step, and the hundredths of what references take; stop where
        the job is not to go on.
        """
        networks = job.sampling_steps

        def step(*_: object) -> None:
            nonlocal networks
            networks += 1
            job.sampling_steps = networks
            self._go_on(job)

        def tell(part: str, share: float) -> None:
            job.part = part
            if len(self.model.pipeline.library):
                job.sampling_steps = networks + int(HUNDREDTHS * done(part, share))
            self._go_on(job)

        hook = self.model.pipeline.unet.register_forward_hook(step)
        try:
            yield tell
        finally:
            hook.remove()

    def _steps(self, order: Order) -> int:
        pipeline = self.model.pipeline
        return pipeline.steps_for(1) + HUNDREDTHS if len(pipeline.library) else pipeline.steps_for(order.samples)


def scarce(error: BaseException) -> AxonError | None:
    """What to tell where the machine is out of something; None of any other error."""
    number = error.errno if isinstance(error, OSError) else None
    if number in FULL:
        assert isinstance(error, OSError)
        return disk_full(error)
    if number in (errno.EMFILE, errno.ENFILE):
        return AxonError("SERVE_BUSY", "the server has too many files and connections open", "try again in a minute")
    return None


def _told(error: BaseException) -> AxonError | None:
    """What the page shows of an error; the trace of one that nobody foresaw is for the terminal."""
    if isinstance(error, _DroppedError):
        return None
    if isinstance(error, AxonError):
        return error
    if (known := scarce(error)) is not None:
        return known
    _log.error("a reconstruction failed", exc_info=error)
    if (known := device_failure(error)) is not None:
        return known
    message = f"the reconstruction failed ({type(error).__name__})"
    return AxonError("SERVE_FAILED", message, "look at the server's terminal")


def _shown(record: dict[str, Any], made: Reconstruction) -> dict[str, Any]:
    """The record, the films beside their re-projections, and where the colours of the error to expect end."""
    films = [
        {
            "given": gray_uri(made.given[view], 0, 1),
            "ten_cm": round(10_000 / made.film_mm, 2),
            "given_ten_cm": round(10_000 / made.given_mm[view], 2) if view in made.given_mm else 0,
            **film_pictures(view, film_UV, made.reprojected[view]),
        }
        for view, film_UV in made.films.items()
    ]
    std = made.output.std_DHW
    return {
        "record": record,
        "films": films,
        "std_top_hu": None if std is None else max(float(np.quantile(std, 0.995)), 1.0),
    }
