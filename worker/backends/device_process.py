"""What runs in a device's process: one backend, and the calls that come for it.

What is quick is answered by the thread that reads calls, where no other runs that it could have to wait for. Any
other call runs on a thread of its own, so that a long copy holds up no readings. It serves until its input
ends, which is how it learns that the worker is gone; then it just goes, and its memory with it.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from protocol.vocabulary import DeviceState
from worker.backends.base import (
    ChecksRestart,
    CopiesWithin,
    DeviceBackend,
    KnowsProcesses,
    LocksMemory,
    Range,
    TellsFigures,
)
from worker.backends.call_threads import CallThreads
from worker.backends.isolation import notices
from worker.backends.isolation.call import QUESTIONS, WORK
from worker.backends.isolation.caller import Caller
from worker.backends.isolation.codec import packed, packed_block, packed_error, packed_readings, request_of
from worker.backends.isolation.figures_page import FiguresWriter
from worker.backends.isolation.frames import FramePipe, Message, any_values_line, line
from worker.backends.isolation.shared_maps import SharedMaps
from worker.backends.isolation.slots import Slots
from worker.backends.isolation.touch_guard import TouchGuard
from worker.core.cancellation import CancelToken
from worker.core.errors import OutOfMemoryError
from worker.core.records import Readings
from worker.core.shortages import patiently

if TYPE_CHECKING:
    from worker.backends.isolation.filling import Filling

_CALLS_AT_ONCE = 32
"""More than the worker's own threads: none of its calls waits for another's."""

_QUICK = frozenset({"check", "free", "readings"})
_QUICK_BYTES = 2**20
"""Blocks of up to this size are made at once."""

_REQUEST, _SIZE = 1, 1
"""Where a call to allocate has its request, and that its size."""

_DO = "_do_"

_PR_SET_PDEATHSIG = 1


Lend = Callable[[dict[str, str]], None]
"""Makes top-level packages importable from the folders they are named with."""


def serve(setup: dict[str, Any], read_fd: int, write_fd: int, lend: Lend) -> None:
    """Answer calls until the worker is gone. Does not return."""
    _leave_signals_to_the_worker(setup["parent"])
    _Server(FramePipe(read_fd, write_fd), setup, lend).serve()
    os._exit(0)  # whatever still runs: no caller waits for it


class _Server:
    """The backend, and the calls that run."""

    def __init__(self, pipe: FramePipe, setup: dict[str, Any], lend: Lend) -> None:
        self._pipe = pipe
        self._submit = CallThreads(_CALLS_AT_ONCE).submit
        self._setup = setup
        self._lend = lend
        self._slots = Slots.open(setup["slots"])
        self._guard = TouchGuard()
        self._maps = SharedMaps(self._guard)
        self._never = CancelToken(time.monotonic_ns)
        self._calls = {
            name.removeprefix(_DO): getattr(self, name) for name in dir(self) if name.startswith(_DO)
        }
        # All mutable state: the backend once it is made, running calls, and models on their way in.
        self._backend: DeviceBackend
        self._tokens: dict[int, CancelToken] = {}
        self._callers: dict[int, Caller] = {}
        self._fillings: dict[str, Filling] = {}
        self._given_up: list[Filling] = []
        """Those that the worker gave up, until they have ended: what they wait for may hang."""
        self._figures = FiguresWriter(
            self._slots.page, setup["life"], self._readings, lambda: pipe.sent, notices.tell
        )

    def serve(self) -> None:
        """Take calls, and answer those at once that are quick, while no other runs: they can't be cancelled."""
        tokens, calls, never = self._tokens, self._calls, self._never
        receive, answer, is_read = self._pipe.receive, self._pipe.answer, self._figures.is_read
        message = receive()
        while message is not None:
            try:
                number, do, arguments, left_ns = message
            except ValueError:  # a word about a call has fewer fields
                self._heed(*message)
                message = receive()
                continue
            if tokens or not (
                do in _QUICK or (do == "allocate" and arguments[_REQUEST][_SIZE] <= _QUICK_BYTES)
            ):
                self._begin(message)
                message = receive()
                continue
            token = never if left_ns is None else CancelToken(time.monotonic_ns, _deadline_ns(left_ns))
            try:
                text = line([number, calls[do](token, *arguments)])
            except BaseException as error:  # noqa: BLE001 - it is the worker's to deal with
                text = _failed(number, error)
            try:
                if do in QUESTIONS or not is_read():
                    message = answer(text)
                else:
                    self._pipe.put(text)
                    self._figures.follow()
                    message = receive()
            except OSError:  # the worker is gone
                return

    def _heed(self, call: int, *reply: Any) -> None:
        """Cancel a call, or hand a reply to the work that asked; nothing happens if it is done."""
        if reply:
            caller = self._callers.get(call)
            if caller is not None:
                caller.reply(*reply)
            return
        token = self._tokens.get(call)
        if token is not None:
            token.cancel()

    def _begin(self, message: Message) -> None:
        """Note a call, so that it can be cancelled from now on, and run it."""
        number, do, _, left_ns = message
        try:
            token = self._tokens[number] = CancelToken(time.monotonic_ns, _deadline_ns(left_ns))
            self._submit(self._answer, message, token)
        except (OutOfMemoryError, MemoryError) as error:
            self._say(number, do, _failed(number, error))

    def _answer(self, message: Message, token: CancelToken) -> None:
        number, do, arguments, _ = message
        try:
            answer = [number, self._calls[do](token, *arguments)]
            text = any_values_line(answer) if do == WORK else line(answer)
        except BaseException as error:  # noqa: BLE001 - it is the worker's to deal with
            text = _failed(number, error)
        self._say(number, do, text)

    def _say(self, number: int, do: str, text: bytes) -> None:
        """Send the answer to a call. It counts as running until then, so that the thread that reads calls writes none."""
        try:
            self._pipe.write(text)
        except OSError:
            os._exit(0)  # the worker is gone
        self._tokens.pop(number, None)
        if do not in QUESTIONS:
            self._figures.follow()

    def _readings(self, device_id: str) -> Readings:
        readings = self._backend.readings(device_id)
        if self._given_up:
            asked = [each.request for each in tuple(self._given_up)]
            stuck = sum(each.size_bytes for each in asked if each.device_id == device_id)
            resident = max(0, readings.resident_bytes - stuck)
            readings = replace(readings, resident_bytes=resident, stuck_bytes=stuck)
        return readings

    # ---- what can be called ----

    def _do_start(self, _: CancelToken) -> list[Any]:
        module, _, name = self._setup["factory"].partition(":")
        make: Callable[..., DeviceBackend] = getattr(import_module(module), name)
        self._backend = make(**self._setup["options"])
        if isinstance(self._backend, LocksMemory):
            self._backend.lend_memory(self._slots.memory)
        found = self._backend.probe()
        if self._setup["life"]:
            self._figures.begin(each.device_id for each in found if each.state is DeviceState.AVAILABLE)
            if isinstance(self._backend, TellsFigures):
                self._backend.watch_figures(self._figures.changed)
        return [packed(each) for each in found]

    def _do_readings(self, _: CancelToken, device_id: str) -> object:
        return packed_readings(self._figures.take(device_id))

    def _do_processes(self, _: CancelToken, device_id: str, pids: list[int]) -> object:
        if not isinstance(self._backend, KnowsProcesses):
            return None
        found = self._backend.processes(device_id, tuple(pids))
        return None if found is None else [list(each) for each in found.items()]

    def _do_check(self, _: CancelToken, request: list[Any]) -> None:
        self._backend.check(request_of(request))

    def _do_allocate(self, token: CancelToken, allocation_id: str, request: list[Any]) -> object:
        return packed_block(self._backend.allocate(allocation_id, request_of(request), token))

    def _do_free(self, _: CancelToken, allocation_id: str) -> object:
        return self._backend.free(allocation_id)

    def _do_read(self, token: CancelToken, name: str, offset: int, slot: int, length: int) -> None:
        self._backend.read(name, offset, self._slots.view(slot, length), token)

    def _do_write(self, token: CancelToken, name: str, offset: int, slot: int, length: int) -> None:
        self._backend.write(name, offset, self._slots.view(slot, length), token)

    def _do_copy_within(
        self, token: CancelToken, source: str, destination: str, offset: int, length: int
    ) -> bool:
        backend = self._backend
        return isinstance(backend, CopiesWithin) and backend.copy_within(
            source, destination, offset, length, token
        )

    def _do_map(self, _: CancelToken, path: str, size: int) -> bool:
        try:
            self._maps.add(path, size)
        except (OSError, ValueError):
            return False
        return True

    def _do_read_file(
        self, token: CancelToken, name: str, offset: int, length: int, path: str, size: int
    ) -> None:
        with self._maps.using(path, size) as file, file[offset : offset + length] as into:
            self._backend.read(name, offset, into, token)

    def _do_write_file(
        self, token: CancelToken, name: str, offset: int, length: int, path: str, size: int
    ) -> None:
        with self._maps.using(path, size) as file, file[offset : offset + length] as data:
            self._backend.write(name, offset, data, token)

    def _do_load(self, token: CancelToken, handle: str, request: list[Any]) -> None:
        from worker.backends.isolation.filling import Filling  # noqa: PLC0415 - engines' processes never need it

        filling = Filling(self._backend, handle, request_of(request), token, self._guard)
        filling.wait_until_ready()
        self._fillings[handle] = filling

    def _do_fill(self, _: CancelToken, handle: str, offset: int, slot: int, length: int) -> None:
        self._fillings[handle].put(offset, self._slots.view(slot, length))

    def _do_fill_file(
        self, _: CancelToken, handle: str, place: str, identity: list[int], ranges: list[Range]
    ) -> bool:
        return self._fillings[handle].put_file(place, tuple(identity), ranges)

    def _do_filled(self, _: CancelToken, handle: str, whole: bool) -> object:  # noqa: FBT001 - a message has arguments without names
        filling = self._fillings.pop(handle)
        if whole:
            return packed_block(filling.finish())
        self._given_up.append(filling)
        try:
            filling.give_up()
        finally:
            self._given_up.remove(filling)
        return None

    def _do_unload(self, _: CancelToken, handle: str) -> object:
        return self._backend.unload(handle)

    def _do_work(
        self, token: CancelToken, name: str, entry: str, arguments: dict[str, Any], lent: dict[str, str]
    ) -> object:
        self._lend(lent)
        module, _, function = entry.partition(":")
        call = next(number for number, each in self._tokens.items() if each is token)
        caller = self._callers[call] = Caller(self._pipe, call)
        try:
            done = getattr(import_module(module), function)(self._backend, name, token, caller, **arguments)
            return packed(done)
        finally:
            del self._callers[call]

    def _do_check_restart(self, _: CancelToken, more: list[int]) -> None:
        if isinstance(self._backend, ChecksRestart):
            self._backend.check_restart(more, frozenset(each.handle for each in tuple(self._given_up)))

    def _do_trim(self, _: CancelToken, device_id: str) -> object:
        return self._backend.trim(device_id)

    def _do_tick(self, _: CancelToken) -> None:
        self._maps.prune()
        self._backend.tick()

    def _do_defragment(self, _: CancelToken, device_id: str) -> object:
        return packed(self._backend.defragment(device_id))

    def _do_notes(self, _: CancelToken) -> object:
        return packed(self._backend.notes())

    def _do_live(self, _: CancelToken) -> object:
        return packed(self._backend.live())


def _deadline_ns(left_ns: int | None) -> int | None:
    return None if left_ns is None else time.monotonic_ns() + left_ns


def _failed(number: int, error: BaseException) -> bytes:
    """Return as it is written why a call failed, or that its result is one that no message can hold."""
    answer = [number, None, packed_error(error)]
    return patiently(lambda: line(answer))


def _leave_signals_to_the_worker(parent: int) -> None:
    """Let the worker decide when to end: what a terminal or a service manager sends goes to both."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        # The end of input says so too, but not to a process that hangs in a driver.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
