"""What runs in an engine's process: the sessions of its models, and the calls that the worker makes.

Each call is a function by its name, as plugins' work is; sessions are found by the handles of their models.
"""

import ctypes
import gc
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from protocol.vocabulary import DeviceKind
from worker.backends.engines.arrays import Segments
from worker.backends.engines.asking import asking
from worker.backends.engines.base import Engine, LibraryError, Reopens, Session
from worker.core.cancellation import CancelToken
from worker.core.log import log
from worker.core.records import HOST, DeviceInfo

Progress = Callable[[int, int], None]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_FROM_BYTES = 2**20
"""What is larger is mapped by itself, and so goes back when it is freed; glibc would raise this with each large block
that is freed, up to 32 MiB, and keep what lies below it. From 4 MiB on a small model leaves more than a twentieth behind,
which ends its process; below 1 MiB it takes half as long again to open."""


class EngineHost:
    """The sessions of an engine's process."""

    quick_bytes = -1

    def __init__(self) -> None:
        _set_up_heap()
        # All mutable state: each library that is in use here, and the sessions by handle.
        self._engines: dict[str, Engine] = {}
        self._sessions: dict[str, Session] = {}
        self.segments = Segments()
        self.sent: dict[int, dict[str, Any]] = {}
        """Where results lie that the worker has not taken yet, by the number that it gave the call."""

    def probe(self) -> tuple[DeviceInfo, ...]:
        """Return the machine: whatever an engine's providers use besides is theirs to find."""
        return (DeviceInfo(HOST, DeviceKind.CPU, "Engine"),)

    def engine(self, name: str) -> Engine:
        """Return an engine, and import its library for the first model that needs it. LibraryError where that fails."""
        if name not in self._engines:
            module, _, kind = name.partition(":")
            try:
                made = import_module(module)
            except (MemoryError, ModuleNotFoundError):
                raise
            except (Exception, SystemExit) as error:
                text = f"{type(error).__name__}: {error}"
                raise LibraryError(text) from error
            self._engines[name] = getattr(made, kind)()
        return self._engines[name]

    def add(self, handle: str, session: Session) -> None:
        """Keep a session."""
        self._sessions[handle] = session

    def session(self, handle: str) -> object:
        """Return the library's own object of a model. KeyError for one that is not here."""
        return self._sessions[handle].session

    def opened(self, handle: str) -> Session:
        """Return a session as this project sees it. KeyError."""
        return self._sessions[handle]

    def remove(self, handle: str) -> Session | None:
        """Return a session that is kept no longer; None where there is none."""
        return self._sessions.pop(handle, None)

    def trim(self, device_id: str) -> int | None:  # noqa: ARG002 - as a device's backend has it
        """Have the C library give free pages back. None: the worker measures what went."""
        gc.collect()
        self.segments.clear()
        _trim_heap()
        return None


# ---- what the worker calls ----


def prepare(host: EngineHost, _handle: str, _token: CancelToken, _report: Progress, engine: str) -> None:
    """Import a library, before what it takes is measured as its own."""
    host.engine(engine)


def consult(
    host: EngineHost,
    _handle: str,
    _token: CancelToken,
    _report: Progress,
    engine: str,
    params: dict[str, Any],
) -> tuple[str, ...]:
    """Import a library, and have it look at what a model's params ask of it."""
    return tuple(host.engine(engine).check(params))


def open_session(
    host: EngineHost,
    handle: str,
    token: CancelToken,
    _report: Progress,
    engine: str,
    path: str,
    params: dict[str, Any],
    model_id: str | None = None,
) -> dict[str, int | None]:
    """Load a model, and log what its engine takes no notice of. Returns its figures."""
    token.check()
    for note in host.engine(engine).check(params):
        log("warning", note, model_id=model_id, path=path)
    session = host.engine(engine).open(path, params, token)
    host.add(handle, session)
    return dict(session.figures())


def shrink(host: EngineHost, handle: str, _token: CancelToken, _report: Progress) -> dict[str, int | None]:
    """Have the library give working memory back. Returns the model's figures."""
    session = host.opened(handle)
    session.shrink()
    return dict(session.figures())


def reopen(host: EngineHost, handle: str, _token: CancelToken, _report: Progress) -> bool:
    """Have a model opened anew, where its session can do that. Returns whether it was."""
    session = host.opened(handle)
    if isinstance(session, Reopens):
        session.reopen()
        return True
    return False


def close_session(host: EngineHost, handle: str, _token: CancelToken, _report: Progress) -> None:
    """Give a model up; nothing happens if it is not there."""
    session = host.remove(handle)
    if session is not None:
        session.close()
    del session
    gc.collect()


def work(
    host: EngineHost,
    handle: str,
    token: CancelToken,
    report: Progress,
    entry: str,
    arguments: dict[str, Any],
    number: int,
    arrays: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Do a plugin's work on a model. Returns what it returned, and the model's figures after it.

    Arrays that it returned stay where they are until ``received``, by the number of the call.
    """
    module, _, function = entry.partition(":")
    arguments = host.segments.receive(arguments, arrays, copied=False)
    with asking(report, host.segments):
        result = getattr(import_module(module), function)(host, handle, token, report, **arguments)
    rest, sent = host.segments.send(result)
    if sent is not None:
        host.sent[number] = sent
    return {"result": rest, "arrays": sent, "figures": dict(host.opened(handle).figures())}


def received(host: EngineHost, _handle: str, _token: CancelToken, _report: Progress, number: int) -> None:
    """Take back the memory in which a call's arrays were sent: the worker has them, or wants them no more."""
    host.segments.done(host.sent.pop(number, None))


# ---- the C library's heap ----


def _set_up_heap() -> None:
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:  # glibc
            mallopt(_M_MMAP_THRESHOLD, _MMAP_FROM_BYTES)
            mallopt(_M_TRIM_THRESHOLD, _MMAP_FROM_BYTES)


def _trim_heap() -> None:
    if sys.platform == "win32":
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetProcessHeaps.restype = ctypes.c_uint32
        kernel.HeapCompact.restype = ctypes.c_size_t
        kernel.HeapCompact.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
        count = kernel.GetProcessHeaps(0, None)
        heaps = (ctypes.c_void_p * count)()
        for heap in heaps[: min(count, kernel.GetProcessHeaps(count, heaps))]:
            kernel.HeapCompact(heap, 0)
    else:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # glibc
            trim(0)
