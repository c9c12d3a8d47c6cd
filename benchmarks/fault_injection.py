"""A plugin that makes the n-th call of a kind fail, from when it is armed: what ``benchmarks.faults`` counts on.

``fault.arm {"kind", "n", "times"}`` and ``fault.off``, which tells how many calls came and how many failed.
The protocol's own pipe is spared: what is written there is lost with the host, not with the disk. So is what happens
inside orjson, which does not look whether it was given memory: of allocations the n-th after a call of it fails.
"""

import _thread
import builtins
import errno
import gc
import io
import mmap
import os
import threading
from collections.abc import Callable
from typing import Any, Self

import orjson

from worker.backends.cpu import CpuBackend
from worker.backends.simulated import SimulatedBackend
from worker.plugins import Call, PluginHost
from worker.stream.frame_writer import FrameWriter

try:
    import _testcapi  # type: ignore[import-not-found]  # it has no stub
except ImportError:  # an interpreter without its own test modules
    _testcapi = None  # CPython has it in tests alone

_DEVICE_CALLS = (
    "allocate",
    "free",
    "read",
    "write",
    "view",
    "check",
    "readings",
    "trim",
    "defragment",
    "load",
    "unload",
)


class _Fault:
    """Counts calls of one kind, and fails the n-th and as many after it as asked."""

    def __init__(self) -> None:
        self.kind: str | None = None
        self.first = self.times = self.calls = self.failed = 0

    def arm(self, kind: str | None, first: int = 0, times: int = 1) -> None:
        self.kind, self.first, self.times, self.calls, self.failed = kind, first, times, 0, 0

    def due(self, kind: str) -> bool:
        if kind != self.kind:
            return False
        self.calls += 1
        due = self.first <= self.calls < self.first + self.times
        self.failed += due
        return due


_fault = _Fault()


def _failing(
    kind: str, call: Callable[..., Any], error: Callable[[], BaseException], spared: set[int]
) -> Any:
    def maybe(*arguments: Any, **named: Any) -> Any:
        if not (arguments and isinstance(arguments[0], int) and arguments[0] in spared) and _fault.due(kind):
            raise error()
        return call(*arguments, **named)

    return maybe


def _os_error(number: int) -> Callable[[], OSError]:
    return lambda: OSError(number, os.strerror(number))


class _Map(mmap.mmap):
    def __new__(cls, *arguments: Any, **named: Any) -> Self:
        if _fault.due("mmap"):
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return super().__new__(cls, *arguments, **named)


def _install() -> None:
    spared = _protocol_descriptors()
    calls: list[tuple[object, str, str, Callable[[], BaseException]]] = [
        (_thread, "start_new_thread", "thread", lambda: RuntimeError("can't start new thread")),
        (threading, "_start_new_thread", "thread", lambda: RuntimeError("can't start new thread")),
    ]
    open_error, read_error, write_error = (
        _os_error(each) for each in (errno.EMFILE, errno.EIO, errno.ENOSPC)
    )
    calls += [
        (os, "open", "open", open_error),
        (io, "open", "open", open_error),
        (builtins, "open", "open", open_error),
    ]
    calls += [(os, name, "read", read_error) for name in ("read", "pread", "preadv")]
    calls += [(os, name, "write", write_error) for name in ("write", "pwrite", "pwritev", "ftruncate")]
    calls += [(os, name, "fsync", write_error) for name in ("fsync", "fdatasync", "posix_fallocate")]
    for backend in (CpuBackend, SimulatedBackend):
        calls += [
            (backend, name, "device", lambda: RuntimeError("the device failed")) for name in _DEVICE_CALLS
        ]
    for place, name, kind, error in calls:
        if hasattr(place, name):
            setattr(place, name, _failing(kind, getattr(place, name), error, spared))
    mmap.mmap = _Map  # type: ignore[misc]  # in its place, to fail
    if _testcapi is not None:
        orjson.loads, orjson.dumps = _memory.outside(orjson.loads), _memory.outside(orjson.dumps)


def _protocol_descriptors() -> set[int]:
    """Return the descriptors that replies go to, those still to be made included."""
    spared = set[int]()
    make = FrameWriter.__init__

    def noting(self: FrameWriter, fd: int, *arguments: Any) -> None:
        spared.add(fd)
        make(self, fd, *arguments)

    FrameWriter.__init__ = noting  # type: ignore[method-assign]  # in its place, to fail
    spared.update(each._fd for each in gc.get_objects() if isinstance(each, FrameWriter))  # noqa: SLF001 - a writer made before this module names its descriptor to nobody
    return spared


class _Memory:
    """Fails the n-th allocation after the k-th call of orjson."""

    def __init__(self) -> None:
        self.armed = False
        self.segment = self.target = self.first = 0

    def arm(self, target: int, first: int) -> None:
        self.segment, self.target, self.first, self.armed = 0, target, first, True
        self.enter()

    def enter(self) -> None:
        if self.armed and self.segment == self.target:
            _testcapi.set_nomemory(self.first, self.first + 1)

    def off(self) -> int:
        _testcapi.remove_mem_hooks()
        self.armed = False
        return self.segment

    def outside(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def spared(*arguments: Any, **named: Any) -> Any:
            if not self.armed:
                return call(*arguments, **named)
            _testcapi.remove_mem_hooks()
            try:
                return call(*arguments, **named)
            finally:
                self.segment += 1
                self.enter()

        return spared


_memory = _Memory()

KINDS = ("memory", "thread", "open", "read", "write", "fsync", "mmap", "device")


def _arm(data: dict[str, Any], _call: Call) -> Any:
    if data["kind"] != "memory":
        _fault.arm(data["kind"], data["n"])
    elif _testcapi is not None:
        _memory.arm(data.get("segment", 0), data["n"])
    return {}


def _off(_data: dict[str, Any], _call: Call) -> Any:
    segments = 0 if _testcapi is None else _memory.off()
    failed = _fault.failed
    _fault.arm(None)
    return {"failed": failed, "segments": segments}


def register(host: PluginHost) -> None:
    """Put the failing calls in place of the real ones, and add the actions."""
    _install()
    host.add_action("fault.arm", _arm)
    host.add_action("fault.off", _off)
