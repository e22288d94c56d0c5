"""Files are read in a child process with limits: what a hostile file does to a decoder costs that file alone.

A child lives as long as its parent and reads one study or film after another. It imports no torch. Orders and answers
are JSON over a socket, arrays come back in an anonymous file in memory, so that neither a writable root nor room in
/dev/shm is needed, and nothing that a child says is executed.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import errno
import importlib
import json
import logging
import mmap
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from axon.errors import FULL, AxonError

MEMORY_BYTES = 3 * 2**30
"""Address space of a child, libraries included."""
CPU_S, CPU_S_A_FILE = 60, 2
"""CPU seconds that reading one study may take, and more for each of its files."""
WALL = 5
"""Seconds on the clock for each second of CPU: a slow disk or a busy machine is no attack."""

_KEPT = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**26)}
"""What glibc keeps of freed memory for the next film: to get it anew takes a third of the time that a film takes."""
_SMALL = 2**26
"""Bytes of arrays up to which an answer is copied out of a file that the child keeps: to make new memory known to two
processes takes longer, and of a CT it is what saves memory."""
_LENGTH = struct.Struct(">QQ?")
"""Of a message's text and of its arrays, and whether they are in a file that is kept."""
_ALIGN = 64
_PROGRAM = "import sys; from axon.readers.child import serve; serve(int(sys.argv[1]), sys.argv[2:])"
_log = logging.getLogger(__name__)


class _Child:
    """One child and the parent's end of the socket; what its first order needs may be imported ahead of it."""

    def __init__(self, *ahead: str) -> None:
        self.socket, theirs = socket.socketpair()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # One thread, and no room for the stacks of others: they count as memory.
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | _KEPT
        # -P: what lies in the current folder is data, not code.
        command = [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno()), *ahead]
        quiet = subprocess.DEVNULL  # decoders write what they think of a header, and it may name a patient
        with theirs:
            self.process = subprocess.Popen(
                command, stdin=quiet, stdout=quiet, stderr=quiet, env=environment, pass_fds=[theirs.fileno()]
            )
        self.owner = os.getpid()

    def ask(self, order: dict[str, Any], seconds: float) -> Any:
        """Its answer. Raises OSError or EOFError where it dies, TimeoutError where it is too slow, and what the check
        of `given_up_by` raises.
        """
        self.socket.settimeout(seconds)
        _send(self.socket, order)
        answers, deadline = select.poll(), time.monotonic() + seconds
        answers.register(self.socket, select.POLLIN)
        while not answers.poll(_CHECK_MS):
            _check.get()()
            if time.monotonic() > deadline:
                raise TimeoutError
        return _receive(self.socket)

    def end(self) -> str:
        """End it; returns how it ended."""
        self.socket.close()
        try:
            self.process.wait(0.2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        code = self.process.returncode
        return signal.Signals(-code).name if code < 0 else f"status {code}"


_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What this process lacks is no fault of the file."""
_CHECK_MS = 200
_check: ContextVar[Callable[[], None]] = ContextVar("check", default=lambda: None)
_idle: list[_Child] = []
_lock = threading.Lock()


def start(module: str) -> None:
    """Start a child, which imports ``module`` to read the first file by, while the parent has other things to do."""
    with _lock:
        if not _mine():
            _idle.append(_Child(module))


@contextlib.contextmanager
def given_up_by(check: Callable[[], None]) -> Iterator[None]:
    """In the block, and in this thread, call ``check`` now and then while a child reads; what it raises ends the
    child.
    """
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def apart(
    kind: str, read: Callable[..., Any], files: Sequence[Path], rules: Any = None, cpu_s: int | None = None
) -> Any:
    """What ``read(files)``, or with rules ``read(files, rules)``, gives, computed in a child.

    Args:
        kind: First part of the code where the child dies: ``"CT"``, ``"XRAY"`` or ``"ARCHIVE"``.
        read: A function of a module of AXON's that gives a dataclass of arrays, numbers and text.
        files: What to read.
        rules: A dataclass of numbers and text.
        cpu_s: CPU seconds that it may take; `CPU_S` and `CPU_S_A_FILE` if not given.

    Raises:
        AxonError: What ``read`` raises, or ``<kind>_DECODER_DIED``.
        OSError: The system has no room for the answer, which is no fault of the files.
    """
    cpu_s = CPU_S + CPU_S_A_FILE * len(files) if cpu_s is None else cpu_s
    paths = [str(Path(file).absolute()) for file in files]
    order = {"read": f"{read.__module__}:{read.__name__}", "files": paths, "cpu_s": cpu_s, "rules": rules}
    child = _take()
    try:
        answer = child.ask(order, cpu_s * WALL)
    except (OSError, EOFError) as error:
        slow = isinstance(error, TimeoutError)
        ended = "too slow" if slow else child.end()
        child.end()
        if getattr(error, "errno", None) in _OURS:
            raise
        message = f"the decoder was ended, or ended itself, while it read this ({ended})"
        raise AxonError(f"{kind}_DECODER_DIED", message, "export it again, uncompressed, or leave it out") from None
    except BaseException:
        # Its answer may still come: nobody else should get it.
        child.end()
        raise
    with _lock:
        _idle.append(child)
    for name, level, text in answer["log"]:
        logging.getLogger(name).log(level, "%s", text)
    if "system" in answer:
        raise OSError(*answer["system"])
    if "error" in answer:
        raise AxonError(*answer["error"])
    return answer["value"]


def _take() -> _Child:
    with _lock:
        mine = _mine()
        if not mine:
            return _Child()
        _idle.remove(mine[-1])
        return mine[-1]


def _mine() -> list[_Child]:
    """The idle children that live and are this process's own: a fork inherits its parent's sockets."""
    return [child for child in _idle if child.owner == os.getpid() and child.process.poll() is None]


@atexit.register
def _end_all() -> None:
    for child in _mine():
        child.end()


def serve(handle: int, ahead: Sequence[str]) -> None:
    """The child's life: read what is ordered until the parent is gone."""
    # Where it is installed pydicom imports it, to download examples: a sixth of all modules.
    sys.modules["requests"] = None  # type: ignore[assignment]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    # Answers are memory; the user's limit is about files.
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    for module in ahead:
        importlib.import_module(module)
    with (
        socket.socket(fileno=handle) as link,
        _anonymous_file() as kept,
        contextlib.suppress(EOFError, ConnectionError),
    ):
        while True:
            _hand_back(link, _answer(_receive(link)), kept)


def _limit(kind: int, wanted: int) -> None:
    """Bound a resource of this process, within what the user's own limit leaves."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _hand_back(link: socket.socket, answer: dict[str, Any], kept: Any) -> None:
    """Send an answer, or why there is no room for it."""
    try:
        _send(link, answer, kept)
    except ConnectionError:
        raise
    except OSError as error:  # of the answer's file, before a byte of it was sent
        _send(link, {"system": [error.errno, error.strerror], "log": answer["log"]})


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(usage.ru_utime + usage.ru_stime)
    _limit(resource.RLIMIT_CPU, spent + order["cpu_s"])
    module, _, name = order["read"].partition(":")
    with _logged() as log:
        try:
            rules = [] if order["rules"] is None else [order["rules"]]
            value = getattr(importlib.import_module(module), name)([Path(file) for file in order["files"]], *rules)
            return {"value": value, "log": log}
        except AxonError as error:
            return {"error": [error.code, error.message, error.fix], "log": log}
        except OSError as error:
            if error.errno not in FULL:
                raise
            return {"system": [error.errno, error.strerror], "log": log}


@contextlib.contextmanager
def _logged() -> Iterator[list[tuple[str, int, str]]]:
    """What AXON's own modules log, for the parent to repeat."""
    lines: list[tuple[str, int, str]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append((record.name, record.levelno, record.getMessage()))

    handler = Kept()
    logger = logging.getLogger("axon")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def _send(link: socket.socket, message: dict[str, Any], kept: Any = None) -> None:
    """Send a message; its arrays go into one anonymous file, whose descriptor travels along: where they are small into
    ``kept``, which is used again for the next message.
    """
    arrays: list[np.ndarray] = []
    content = json.dumps(_packed(message, arrays)).encode()
    small = kept is not None and sum(array.nbytes for array in arrays) <= _SMALL
    if not arrays:
        link.sendall(_LENGTH.pack(len(content), 0, small) + content)
        return
    with contextlib.nullcontext(kept) if small else _anonymous_file() as file:
        file.seek(0)
        for array in arrays:
            file.write(bytes(-file.tell() % _ALIGN))
            file.write(np.ascontiguousarray(array).data if array.size else b"")
        file.flush()
        head = _LENGTH.pack(len(content), file.tell(), small)
        # Together: what comes in two parts wakes the other end twice.
        sent = socket.send_fds(link, [head, content], [file.fileno()])
    link.sendall((head + content)[sent:])


def _receive(link: socket.socket) -> Any:
    """The next message. Raises EOFError where the other end is closed."""
    start, handles, _, _ = socket.recv_fds(link, _LENGTH.size, 1)
    with contextlib.ExitStack() as stack:
        for handle in handles:
            stack.callback(os.close, handle)
        if len(start) < _LENGTH.size:
            raise EOFError
        length, size, small = _LENGTH.unpack(start)
        if size and not handles:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        content = bytearray()
        while missing := length - len(content):
            if not (part := link.recv(min(missing, 2**20))):
                raise EOFError
            content += part
        given = _copied if small else _mapped
        memory = given(handles[0], size) if size else b""
    try:
        return _unpacked(json.loads(content), memory)
    except (ValueError, KeyError, TypeError, AttributeError, ImportError, RecursionError):
        raise EOFError("the other end talks nonsense") from None


def _copied(handle: int, size: int) -> np.ndarray:
    memory = np.empty(size, np.uint8)
    with open(handle, "rb", buffering=0, closefd=False) as file:
        file.seek(0)
        while missing := size - file.tell():
            if not file.readinto(memory[-missing:].data):
                raise EOFError
    return memory


def _mapped(handle: int, size: int) -> mmap.mmap:
    """Private and writable: an array over it is like any other, without a copy."""
    return mmap.mmap(handle, size, access=mmap.ACCESS_COPY)


def _anonymous_file() -> Any:
    """A file without a name: in memory where the system can, which /dev/shm's size does not bound."""
    return os.fdopen(os.memfd_create("axon"), "wb") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()


def _packed(value: Any, arrays: list[np.ndarray]) -> Any:
    """``value`` in JSON's terms; arrays are put aside."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": [value.dtype.str, value.shape]}
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        made = {name: _packed(field, arrays) for name, field in fields.items()}
        return {"class": f"{type(value).__module__}:{type(value).__name__}", "fields": made}
    if isinstance(value, dict):
        return {"dict": {name: _packed(item, arrays) for name, item in value.items()}}
    return [_packed(item, arrays) for item in value] if isinstance(value, list | tuple) else value


def _unpacked(value: Any, memory: Any, offset: list[int] | None = None) -> Any:
    """What `_packed` was given; lists have become tuples."""
    offset = [0] if offset is None else offset
    if isinstance(value, list):
        return tuple(_unpacked(item, memory, offset) for item in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        dtype, shape = np.dtype(value["array"][0]), tuple(value["array"][1])
        start, count = offset[0] + -offset[0] % _ALIGN, int(np.prod(shape))
        offset[0] = start + count * dtype.itemsize
        return np.frombuffer(memory, dtype, count, start).reshape(shape) if count else np.empty(shape, dtype)
    if "dict" in value:
        return {name: _unpacked(item, memory, offset) for name, item in value["dict"].items()}
    module, _, name = value["class"].partition(":")
    kind = getattr(importlib.import_module(module), name) if module.startswith("axon.") else None
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise EOFError("the child answers nonsense")
    return kind(**{name: _unpacked(item, memory, offset) for name, item in value["fields"].items()})
