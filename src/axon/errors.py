"""The one exception a user can meet: what is wrong, and what to do about it."""

from __future__ import annotations

import contextlib
import errno
import sys
import traceback
from collections.abc import Iterable, Iterator


class AxonError(Exception):
    """A problem the user can mend.

    What of its texts cannot be printed, such as the control characters of a file's name, is escaped.

    Args:
        code: Stable identifier in capitals, for scripts and for counting rejections, e.g. ``"CT_SLICE_GAP"``.
        message: What is wrong, naming the file, key or value.
        fix: What to do about it, as an instruction.

    Attributes:
        several: The problems that it tells all of; none for one of its own.
    """

    several: tuple[AxonError, ...] = ()

    def __init__(self, code: str, message: str, fix: str) -> None:
        self.code = code
        self.message = printable(message)
        self.fix = printable(fix)
        super().__init__(code, self.message, self.fix)

    def __str__(self) -> str:
        return f"[{self.code}] {self.message} -> {self.fix}"


def printable(text: str) -> str:
    """The text with everything escaped that would move a terminal's cursor, begin a line, or be no text at all."""
    shown = (letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return text if text.isprintable() else "".join(shown)


def printable_lines(text: str) -> str:
    """The same of a text whose lines are of our own making: what else was put into it is `printable` already."""
    return "\n".join(printable(line) for line in text.split("\n"))


@contextlib.contextmanager
def collected(problems: list[AxonError]) -> Iterator[None]:
    """Append an `AxonError` to ``problems`` instead of raising it."""
    try:
        yield
    except AxonError as problem:
        problems.append(problem)


def raise_all(problems: Iterable[AxonError], code: str = "PREFLIGHT") -> None:
    """Raise the problem, or one with ``code`` that tells all of them, each once; nothing without a problem."""
    each = [one for problem in problems for one in problem.several or (problem,)]
    if len(each) == 1:
        raise each[0]
    if each:
        found = "; ".join(f"({n}) {problem}" for n, problem in enumerate(each, 1))
        whole = AxonError(code, f"{len(each)} problems: {found}", "mend them all, then start again")
        whole.several = tuple(each)
        raise whole


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with status 1 and one readable last line of standard error, not a traceback, on an `AxonError`, a
    file that the system refuses, memory that ran out or a GPU that failed.
    """
    try:
        with _refused_files(), missing_extras(), _failed_devices():
            yield
    except AxonError as error:
        # Before it, that it stays the last line where both outputs are one.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        print(error, file=sys.stderr, flush=True)
        raise SystemExit(1) from None


EXTRAS = {
    "train": ("jinja2", "mlflow", "pandas", "pyarrow"),
    "data": ("boto3", "botocore", "dvc", "dvc_data", "dvc_objects", "dvc_s3"),
    "cohort": ("idc_index_data",),
    "bundle": ("fire", "jsonschema"),
    "bench": ("nanodrr", "skimage", "torchmetrics"),
    "pipeline": ("croniter", "kfp", "kfp_server_api", "kubeflow"),
    "serve": ("python_multipart", "starlette", "uvicorn"),
}
"""Modules that only an extra of the package installs, by its name."""


@contextlib.contextmanager
def missing_extras() -> Iterator[None]:
    """Turn the failed import of a module of `EXTRAS` into an `AxonError` ``EXTRA_MISSING`` that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
        if extra is None:
            raise
        fix = f"pip install 'axon-ct[{extra}]', or axon-ct[all]"
        raise AxonError("EXTRA_MISSING", f"this needs the package {module!r}, which is not installed", fix) from error


@contextlib.contextmanager
def _refused_files() -> Iterator[None]:
    """Turn the system's refusal of a file, met anywhere, into an `AxonError` ``DISK_FULL`` or ``FILE_REFUSED``."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise disk_full(error) from error
        # An error of the network is an OSError, too, but names no file; its traceback says more.
        if error.filename is None or error.strerror is None:
            raise
        message = f"the system refuses {error.filename}: {error.strerror}"
        raise AxonError("FILE_REFUSED", message, "check that path, its type and its permissions") from error


@contextlib.contextmanager
def _failed_devices() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if (known := device_failure(error)) is None:
            raise
        raise known from error


def device_failure(error: BaseException) -> AxonError | None:
    """What to tell where memory ran out or a GPU failed; None of any other error."""
    told = (str(error).splitlines() or [type(error).__name__])[0]
    if is_out_of_memory(error):
        less = "end what else takes memory, ask for fewer samples, leave references out (--fast), or say --device cpu"
        return AxonError("OUT_OF_MEMORY", f"memory ran out: {told}", less)
    if _named(error, "AcceleratorError"):
        again = "start it again; if it fails again, restart the driver, or say --device cpu"
        return AxonError("GPU_FAILED", f"the GPU failed: {told}", again)
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU, whose allocator raises a bare RuntimeError."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and (_named(error, "OutOfMemoryError") or "DefaultCPUAllocator" in str(error))
    )


def _named(error: BaseException, name: str) -> bool:
    """Whether it is of torch's class of that name; torch takes seconds to import."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


def disk_full(error: OSError) -> AxonError:
    """What to tell of an error whose number is one of `FULL`."""
    fix = "free some space, or raise the limit, and run it again: what was there before is as it was"
    return AxonError("DISK_FULL", f"no more can be written: {error.strerror}", fix)


def reason_of(error: BaseException) -> str:
    """What to keep of an error after the process: its code, and of one that nobody foresaw the last places it came
    through, without their variables.
    """
    if isinstance(error, OSError) and error.errno in FULL:
        error = disk_full(error)
    error = device_failure(error) or error
    if isinstance(error, AxonError):
        return str(error)
    told = f"{type(error).__name__}: {printable(str(error))}"
    if not isinstance(error, Exception):  # A signal is no bug.
        return told
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    lines = [f"{frame.filename}:{frame.lineno} {frame.name}: {frame.line}" for frame in frames]
    return "\n  ".join([f"[UNEXPECTED] {told}", *lines])


def require(ok: bool, code: str, message: str, fix: str) -> None:
    """Raise AxonError unless ``ok``."""
    if not ok:
        raise AxonError(code, message, fix)
