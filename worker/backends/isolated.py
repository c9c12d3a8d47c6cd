"""Any backend, in a process of its own: a crash, a hang or an exhausted driver there costs one device, not all.

The process is started beside everything else, called through small messages, and started again when it ends.
What was on its devices is gone then, and said so; ``restart`` is the other way: everything is carried over.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from protocol.vocabulary import DeviceState, Executed
from worker.backends.base import HeldByProcess, OnChange, RemoteWork
from worker.backends.isolation import codec
from worker.backends.isolation.asking import ANSWER_S, PATIENCE_S, Asking
from worker.backends.isolation.block_copies import BlockCopies
from worker.backends.isolation.blocks import Blocks
from worker.backends.isolation.call import Call, OnReport
from worker.backends.isolation.carrying import give_up, read_out
from worker.backends.isolation.child_process import ChildProcess, Launch
from worker.backends.isolation.displaced import Displaced
from worker.backends.isolation.endings import EndedError, Ending
from worker.backends.isolation.held_blocks import HeldBlocks
from worker.backends.isolation.launching import Launching
from worker.backends.isolation.loss import became, lost
from worker.backends.isolation.presence import Presence
from worker.backends.isolation.restarting import replace as replace_process
from worker.backends.isolation.restarting import restarted, used_bytes
from worker.backends.isolation.returning import Returning
from worker.backends.isolation.slots import Slots
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS, Clock
from worker.core.errors import DeviceLostError, DeviceUnavailableError, WorkerError
from worker.core.records import Defragmented, DeviceInfo, Readings, Restarted

Others = Callable[[tuple[DeviceInfo, ...]], tuple[DeviceInfo, ...]]
"""Told of devices that were not expected; returns which of them are this backend's, to be listed with its own."""


class IsolatedBackend:
    """One backend in a process. Its devices are ``expected`` until that has said which there really are."""

    quick_bytes = -1

    def __init__(
        self,
        launch: Launch,
        expected: tuple[DeviceInfo, ...],
        clock: Clock,
        remedies: dict[str, str] | None = None,
        *,
        others: Others | None = None,
        slots_as_file: bool = False,
    ) -> None:
        """``others`` is told of devices that the process found and no caller expected; without it they are this one's."""
        self._launch = launch
        self._others = others
        self._now_ns = clock.now_ns
        self._slots = Slots.create(as_file=slots_as_file, figures=True)
        self._presence = Presence(expected, self._with_displaced)
        self._changed = self._presence.changed
        self._held = HeldBlocks()
        self._displaced = Displaced(self._slots)
        self._blocks = blocks = Blocks(self._presence, self._slots, self._held, self._displaced)
        self.check, self.allocate, self.load = blocks.check, blocks.allocate, blocks.load
        self.free, self.unload = blocks.free, blocks.unload
        copies = BlockCopies(self._presence, self._slots, self._held, self._displaced)
        self.read, self.write = copies.read, copies.write
        self.read_each, self.write_each = copies.read_each, copies.write_each
        self.copy_within = copies.copy_within
        self.read_file, self.write_file = copies.read_file, copies.write_file
        self._asking = Asking(clock)
        self._returning = Returning(clock, self._return_displaced)
        self._ticking: Call | None = None
        self._on_figures: Callable[[str], None] = lambda _: None
        self._launching = Launching(
            launch, self._slots, clock, remedies or {}, self._arrived, self._failed, self._ended
        )

    # ---- coming and going ----

    def begin(self, on_change: OnChange) -> None:
        """Start the process and tell of its devices whenever they change."""
        self._presence.on_change = on_change
        self._launching.begin()

    def watch_figures(self, changed: Callable[[str], None]) -> None:
        """Have ``changed`` called, by any thread, with a device whose noted figures are others for reasons outside."""
        self._on_figures = changed

    def _tell_figures(self, device_id: str) -> None:
        self._on_figures(device_id)

    @property
    def devices(self) -> tuple[DeviceInfo, ...]:
        """The devices, as far as is known by now."""
        return self._presence.devices

    def probe(self) -> tuple[DeviceInfo, ...]:
        """Return the devices, once it is known which there are."""
        self._launching.begin()
        return self._presence.known_devices()

    @property
    def pid(self) -> int | None:
        """The process's id; None while there is none."""
        child = self._presence.child
        return None if child is None else child.pid

    def close(self) -> None:
        """End the process, and everything on its devices with it."""
        self._launching.close()
        self._presence.close()
        with self._changed:
            self._held.clear()
        self._displaced.clear()
        self._slots.close()

    def _arrived(self, child: ChildProcess, found: tuple[DeviceInfo, ...]) -> bool:
        """Take a new process into use. False if it has no device that could be used."""
        found = self._mine(found)
        if not any(each.state is DeviceState.AVAILABLE for each in found):
            child.stop()
            self._failed(f"{self._launch.python} finds no such device", found)
            return False
        child.on_figures = self._tell_figures
        self._presence.become(self._with_missing(found), child)
        if child.end is not None:
            self._ended(child, child.end)
        else:
            self._bring_back()
        return True

    def _mine(self, found: tuple[DeviceInfo, ...]) -> tuple[DeviceInfo, ...]:
        """Tell of devices that may not be this one's, and return those that are."""
        if self._others is None:
            return found
        known = {each.device_id for each in self.devices}
        more = self._others(tuple(each for each in found if each.device_id not in known))
        return tuple(each for each in found if each.device_id in known or each in more)

    def _failed(self, why: str, found: tuple[DeviceInfo, ...] = ()) -> None:
        self._presence.become(
            found or tuple(became(each, DeviceState.UNAVAILABLE, why) for each in self.devices), None
        )

    def _ended(self, child: ChildProcess, end: Ending) -> None:
        """Remove what was in a process that ended by itself, tell of it, and have it replaced."""

        def forget() -> None:
            self._held.forget()
            self._blocks.forget_accepted()
            self._displaced.clear()

        if self._presence.lose(child, end.reason, forget):
            self._launching.bring_back()

    def _with_displaced(self, info: DeviceInfo) -> DeviceInfo:
        """Add what is in host memory instead, and why."""
        names, why = self._displaced.names(info.device_id), info.state_reason
        if info.state is DeviceState.AVAILABLE:
            why = self._displaced.why(info.device_id)
        return replace(info, displaced=names, state_reason=why)

    def _with_missing(self, found: tuple[DeviceInfo, ...]) -> tuple[DeviceInfo, ...]:
        """Add the devices that were there before and are not any more."""
        names = {each.device_id for each in found}
        missing = (each for each in self.devices if each.device_id not in names)
        why = f"{self._launch.python} does not find it"
        return (*found, *(became(each, DeviceState.UNAVAILABLE, why) for each in missing))

    # ---- answering ----

    def readings(self, device_id: str) -> Readings:
        """Ask the process. DeviceUnavailableError where it does not answer in a moment, or is being replaced."""
        with self._presence.using(device_id, Executed.NO, waits=False) as child:
            readings = self._asking.readings(child, device_id)
        return self._without_promised(device_id, readings)

    def recent_readings(self, device_id: str, max_age_ms: int | None) -> tuple[Readings, int] | None:
        """Return what the process last noted, and how many nanoseconds ago. Never waits.

        None where that is older, or something was changed since.
        """
        child = self._presence.child
        found = None if child is None else child.figures(device_id)
        if found is None:
            return None
        age_ns = max(0, time.monotonic_ns() - found.taken_ns)
        if max_age_ms is not None and age_ns > max_age_ms * NS_PER_MS:
            return None
        return self._without_promised(device_id, found.readings), age_ns

    def _without_promised(self, device_id: str, readings: Readings) -> Readings:
        """Leave out the headroom that blocks in host memory wait for."""
        promised = self._displaced.bytes_of(device_id)
        if not promised:
            return readings
        free, largest = readings.free_bytes, readings.largest_block_bytes
        return replace(
            readings,
            free_bytes=None if free is None else max(0, free - promised),
            largest_block_bytes=None if largest is None else max(0, largest - promised),
        )

    def processes(self, device_id: str, pids: tuple[int, ...]) -> HeldByProcess:
        """Ask the process; None where it does not answer in a moment."""
        try:
            with self._presence.using(device_id, Executed.NO, waits=False) as child:
                call = child.begin("processes", device_id, pids)
                found = child.finish(call) if child.answers.wait(call, ANSWER_S) else None
        except DeviceUnavailableError:
            return None
        return None if found is None else dict(found)

    def view(self, allocation_id: str, *, writable: bool) -> memoryview | None:  # noqa: ARG002 - every backend is called alike
        """Return None: what another process has can only be copied."""
        return None

    def work(self, name: str, work: RemoteWork, token: CancelToken, report: OnReport) -> Any:
        """Have work done there; what it reports on its way is passed on."""
        device_id = self._held.place_of(name)
        self._bring_back()
        with self._presence.using(device_id, Executed.UNKNOWN, token=token) as child:
            if name in self._displaced.names():
                message = f"{name} is not on {device_id}: {self._displaced.why(device_id)}"
                raise DeviceUnavailableError(message, device_id=device_id, state=DeviceState.AVAILABLE)
            call = child.begin(
                "work", name, work.entry, work.arguments, work.lent, token=token, on_report=report
            )
            return child.finish(call, token)

    def trim(self, device_id: str) -> int | None:
        """Give up caches there."""
        with self._presence.using(device_id, Executed.UNKNOWN) as child:
            returned: int | None = child.call("trim", device_id)
            return returned

    def tick(self) -> None:
        """Let the backend give up what it keeps for nothing. Waits for no one: timers call it."""
        self._returning.check(needed=bool(self._displaced.names()))
        with (
            suppress(DeviceUnavailableError),
            self._presence.using(None, Executed.UNKNOWN, waits=False) as child,
        ):
            if self._ticking is None or self._ticking.answer is not None:
                self._ticking = child.begin("tick")

    def defragment(self, device_id: str) -> Defragmented | None:
        """Join free memory there."""
        with self._presence.using(device_id, Executed.UNKNOWN) as child:
            return codec.defragmented_of(child.call("defragment", device_id))

    def notes(self) -> tuple[str, ...]:
        """Say which process it is, and what the backend there says."""
        try:
            with self._presence.using(None, Executed.NO) as child:
                said: list[str] = child.call("notes", patience_s=PATIENCE_S)
                return (f"in a process of its own: {child.pid}, {self._launch.python}", *said)
        except DeviceUnavailableError:
            return (f"in a process of its own, which does not run: {self._launch.python}",)

    def live(self) -> frozenset[str]:
        """Ask the process, and add what is in host memory instead."""
        try:
            with self._presence.using(None, Executed.NO) as child:
                return frozenset(child.call("live", patience_s=PATIENCE_S)) | self._displaced.names()
        except DeviceUnavailableError:
            return self._displaced.names()

    # ---- restarting ----

    def restart(self, token: CancelToken, needed_bytes: int = 0) -> Restarted:
        """Replace the process, which gives back whatever it kept, and carry over all that lives in it.

        1. Wait until no caller uses it; new users wait from then on.
        2. Ask whether a new process has a place for what lives and ``needed_bytes`` more, by today's budget.
        3. Read everything out to host memory, twice, and compare. Can be cancelled until here.
        4. End the process, start another, make the blocks again, largest first, fill them and compare; tried
           three times. What finds no headroom after all stays in host memory until it does.

        Raises:
            OutOfMemoryError: there is no place for it, here or in host memory; nothing was done.
            ChecksumMismatchError: a block does not read the same twice; nothing was done.
            DeviceUnavailableError: the process ended before everything was read out, and all of it is lost
                (``executed`` is yes); or no new one starts, and all of it is in host memory.
        """
        with self._presence.exclusive(token) as old:  # 1
            displaced = self._displaced.names()
            held = self._held.besides(displaced)
            there = self._there()
            try:
                more = [*self._displaced.sizes(), needed_bytes]
                old.call("check_restart", [each for each in more if each], patience_s=PATIENCE_S)  # 2
                before = used_bytes(old, there, PATIENCE_S)
                copies = read_out(old, self._slots, held, token)  # 3
            except EndedError as error:
                raise lost(None, error.end, Executed.YES, None) from None
            self._presence.give_up()
            old.kill("was replaced")
            never = CancelToken(self._now_ns)
            done = replace_process(self._launching, self._slots, held, copies, there, never)  # 4
            self._displaced.put(held, copies, done.displaced)
            give_up(copies)
            if done.child is not None:
                with suppress(EndedError, DeviceLostError):
                    done.back.update(self._displaced.bring_back(done.child, CancelToken(self._now_ns)))
            with self._changed:
                self._held.take_back(done.back, all_of_it=True)
                self._blocks.forget_accepted()
            if done.child is None:
                self._failed(f"what was on it is in host memory until a new process starts: {done.why}")
                self._launching.bring_back()
                raise self._presence.unavailable(None)
            done.child.on_figures = self._tell_figures
            self._presence.become(self._with_missing(self._mine(done.found)), done.child)
            after = None
            with suppress(EndedError):
                after = used_bytes(done.child, there, PATIENCE_S)
        if done.child.end is not None:
            self._ended(done.child, done.child.end)
            raise lost(None, done.child.end, Executed.YES, None)
        return restarted(old, done, held, before, after)

    def _bring_back(self) -> None:
        """Put what stays in host memory where it belongs, as far as there is headroom for it by now."""
        if not self._displaced.names():
            return
        with suppress(DeviceUnavailableError), self._presence.using(None, Executed.UNKNOWN) as child:
            back = self._displaced.bring_back(child, CancelToken(self._now_ns))
            with self._changed:
                self._held.take_back(back, all_of_it=False)
            if back:
                for each in self._there():
                    child.call("trim", each)  # the hidden buffers of all that copying
                self._presence.tell()

    def _there(self) -> list[str]:
        """Return the devices that can be used."""
        return [each.device_id for each in self.devices if each.state is DeviceState.AVAILABLE]

    def _return_displaced(self) -> None:
        """Do that, and where this process's memory is frozen below today's budget, replace it once more."""
        self._bring_back()
        if self._displaced.names():
            with suppress(WorkerError, RuntimeError):
                self.restart(CancelToken(self._now_ns))
