"""Any backend, in a process of its own: a crash, a hang or an exhausted driver there costs one device, not all.

The process is started beside everything else, called through small messages, and started again when it ends.
What was on its devices is gone then, and said so; ``restart`` is the other way: everything is carried over.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from protocol.results import DefragmentStep
from protocol.vocabulary import DeviceState, Executed
from worker.backends.base import Fill, OnChange, RemoteWork
from worker.backends.isolation import codec
from worker.backends.isolation.carrying import Held, give_up, read_out, write_back
from worker.backends.isolation.child_process import ChildProcess, EndedError, Ending, Launch
from worker.backends.isolation.copying import receive, send
from worker.backends.isolation.launching import Launching
from worker.backends.isolation.loss import became, lost
from worker.backends.isolation.slots import Slots
from worker.core.cancellation import CancelToken
from worker.core.clock import Clock
from worker.core.errors import DeviceLostError, DeviceUnavailableError, WorkerError
from worker.core.records import AllocationRequest, Block, Defragmented, DeviceInfo, Readings, Restarted

PATIENCE_S = 20.0
"""A process that has not answered a question within this time hangs."""

_LOOK_AGAIN_S = 0.05
"""A restart that waits for others looks this often whether it was cancelled."""

_RESTARTS_TRIED = 3
"""What is carried over is still safe in host memory when a new process fails to start."""


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
        others: OnChange | None = None,
        slots_as_file: bool = False,
    ) -> None:
        """``others`` is told of devices that the process found and nobody expected: they are not this one's.

        Without it they all are.
        """
        self._launch = launch
        self._others = others
        self._now_ns = clock.now_ns
        self._slots = Slots.create(as_file=slots_as_file)
        self._on_change: OnChange = lambda _: None
        self._changed = threading.Condition()
        self._telling = threading.RLock()
        """Held from a change until it is told of, so that changes are told of in the order in which they came."""
        # All mutable state: the devices, their process, what is on them, what went with the last process, the
        # largest size of each kind that is known to be possible, and who is using the process.
        self._devices = tuple(replace(each, state=DeviceState.PROBING) for each in expected)
        self._child: ChildProcess | None = None
        self._held: dict[str, Held] = {}
        self._gone: frozenset[str] = frozenset()
        self._accepted: dict[tuple[object, ...], int] = {}
        self._users = 0
        self._restarting = False
        self._closed = False
        self._launching = Launching(
            launch, self._slots, clock, remedies or {}, self._arrived, self._failed, self._ended
        )

    # ---- coming and going ----

    def begin(self, on_change: OnChange) -> None:
        """Start the process and tell of its devices whenever they change."""
        self._on_change = on_change
        self._launching.begin()

    @property
    def devices(self) -> tuple[DeviceInfo, ...]:
        """The devices, as far as is known by now."""
        return self._devices

    def probe(self) -> tuple[DeviceInfo, ...]:
        """Return the devices, once it is known which there are."""
        self._launching.begin()
        with self._changed:
            self._changed.wait_for(
                lambda: all(each.state is not DeviceState.PROBING for each in self.devices)
            )
            return self.devices

    @property
    def pid(self) -> int | None:
        """The process's id; None while there is none."""
        child = self._child
        return None if child is None else child.pid

    def close(self) -> None:
        """End the process, and everything on its devices with it."""
        self._launching.close()
        with self._changed:
            child, self._child, self._closed = self._child, None, True
            self._held = {}
            self._devices = tuple(became(each, DeviceState.LOST, "closed") for each in self.devices)
            self._changed.notify_all()
        if child is not None:
            child.stop()
        self._slots.close()

    def _arrived(self, child: ChildProcess, found: tuple[DeviceInfo, ...]) -> bool:
        """Take a new process into use. False if it has no device that could be used."""
        if self._others is not None:
            mine = {each.device_id for each in self.devices}
            self._others(tuple(each for each in found if each.device_id not in mine))
            found = tuple(each for each in found if each.device_id in mine)
        if not any(each.state is DeviceState.AVAILABLE for each in found):
            child.stop()
            self._failed(f"{self._launch.python} finds no such device", found)
            return False
        self._become(self._with_missing(found), child)
        if child.end is not None:
            self._ended(child, child.end)
        return True

    def _failed(self, why: str, found: tuple[DeviceInfo, ...] = ()) -> None:
        self._become(
            found or tuple(became(each, DeviceState.UNAVAILABLE, why) for each in self.devices), None
        )

    def _become(self, devices: tuple[DeviceInfo, ...], child: ChildProcess | None) -> None:
        with self._telling:
            with self._changed:
                if not self._closed:
                    self._devices, self._child = devices, child
                    self._changed.notify_all()
            if not self._closed:
                self._on_change(devices)
            elif child is not None:
                child.stop()  # it came too late

    def _ended(self, child: ChildProcess, end: Ending) -> None:
        """Strike out what was in a process that ended by itself, tell of it, and have it replaced."""
        with self._telling:
            with self._changed:
                if self._child is not child:
                    return
                self._child = None
                self._gone, self._held, self._accepted = frozenset(self._held), {}, {}
                self._devices = devices = tuple(
                    became(each, DeviceState.LOST, end.reason)
                    if each.state is DeviceState.AVAILABLE
                    else each
                    for each in self._devices
                )
                self._changed.notify_all()
            self._on_change(devices)
        self._launching.bring_back()

    def _with_missing(self, found: tuple[DeviceInfo, ...]) -> tuple[DeviceInfo, ...]:
        """Add the devices that were there before and are not any more."""
        names = {each.device_id for each in found}
        missing = (each for each in self.devices if each.device_id not in names)
        why = f"{self._launch.python} does not find it"
        return (*found, *(became(each, DeviceState.UNAVAILABLE, why) for each in missing))

    # ---- answering ----

    @contextmanager
    def _using(
        self, device_id: str | None, executed: Executed, requested_bytes: int | None = None
    ) -> Iterator[ChildProcess]:
        """Hand out the process; says what its end means to whoever needed it.

        ``executed`` is what became of the call if the process ends, ``requested_bytes`` what it needed more.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._restarting)
            child = self._child
            if child is None:
                raise self._unavailable(device_id)
            self._users += 1
        try:
            yield child
        except EndedError as error:
            raise lost(device_id, error.end, executed, requested_bytes) from None
        except DeviceLostError as error:
            # The backend there can do nothing more for that device. A new process can.
            child.kill(f"was stopped: {error.message}")
            end = Ending(error.message, ran_out=False)
            raise lost(device_id, end, executed, requested_bytes) from None
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def _unavailable(self, device_id: str | None) -> DeviceUnavailableError:
        info = next((each for each in self.devices if each.device_id == device_id), self.devices[0])
        message = f"{info.device_id} is {info.state}: {info.state_reason}"
        error = DeviceUnavailableError(message, device_id=info.device_id, state=info.state)
        error.executed = Executed.NO
        return error

    def _hold(self, child: ChildProcess, name: str, held: Held) -> None:
        with self._changed:
            if child.end is not None:  # it ended after its answer: what it made went with it
                raise EndedError(child.end)
            self._held[name] = held

    def _device_of(self, name: str) -> str | None:
        """Return where a block is; None if it went with its process. KeyError for one that never was."""
        with self._changed:
            held = self._held.get(name)
            if held is None and name not in self._gone:
                raise KeyError(name)
            return None if held is None else held.request.device_id

    def _place_of(self, name: str) -> str:
        """Return where a block is. DeviceUnavailableError if it went with its process."""
        device_id = self._device_of(name)
        if device_id is None:
            message = f"{name} was lost with its device's process"
            raise DeviceUnavailableError(message, allocation_id=name, state=DeviceState.LOST)
        return device_id

    def readings(self, device_id: str) -> Readings:
        """Ask the process."""
        with self._using(device_id, Executed.NO) as child:
            return codec.readings_of(child.call("readings", device_id, patience_s=PATIENCE_S))

    def check(self, request: AllocationRequest) -> None:
        """Ask the process, unless a larger one of the same kind was possible."""
        kind = (request.device_id, request.memory_type, request.alignment, request.initialize)
        if request.size_bytes <= self._accepted.get(kind, 0):
            return
        with self._using(request.device_id, Executed.NO) as child:
            child.call("check", codec.packed(request), patience_s=PATIENCE_S)
            self._accepted[kind] = max(request.size_bytes, self._accepted.get(kind, 0))

    def allocate(self, allocation_id: str, request: AllocationRequest, token: CancelToken) -> Block:
        """Make a block there."""
        token.check()
        with self._using(request.device_id, Executed.NO, request.size_bytes) as child:
            made = child.call("allocate", allocation_id, codec.packed(request), token=token)
            block = codec.block_of(made)
            self._hold(child, allocation_id, Held(request, block.actual_bytes, weights=False))
            return block

    def free(self, allocation_id: str) -> int | None:
        """Give a block up; nothing is left to do for one that went with its process."""
        return self._give_up("free", allocation_id)

    def unload(self, handle: str) -> int | None:
        """Give a model's block up."""
        return self._give_up("unload", handle)

    def _give_up(self, do: str, name: str) -> int | None:
        device_id = self._device_of(name)
        if device_id is None:
            return 0
        with self._using(device_id, Executed.YES) as child:  # gone is gone, in whichever way
            returned: int | None = child.call(do, name)
            with self._changed:
                self._held.pop(name, None)
            return returned

    def view(self, allocation_id: str, *, writable: bool) -> memoryview | None:  # noqa: ARG002
        """Return None: what another process has can only be copied."""
        return None

    def read(self, allocation_id: str, offset: int, into: memoryview, token: CancelToken) -> None:
        """Copy out of a block."""
        with self._using(self._place_of(allocation_id), Executed.NO) as child:
            receive(child, self._slots, allocation_id, offset, into, token)

    def write(self, allocation_id: str, offset: int, data: memoryview, token: CancelToken) -> None:
        """Copy into a block."""
        with self._using(self._place_of(allocation_id), Executed.UNKNOWN, len(data)) as child:
            send(child, self._slots, "write", allocation_id, offset, data, token)

    def load(self, handle: str, request: AllocationRequest, fill: Fill, token: CancelToken) -> Block:
        """Have the backend load, and send it the bytes as they come."""
        with self._using(request.device_id, Executed.NO, request.size_bytes) as child:
            child.call("load", handle, codec.packed(request), token=token)
            try:
                fill(
                    None,
                    lambda offset, data: send(child, self._slots, "fill", handle, offset, data, token),
                )
            except BaseException:
                with suppress(EndedError):
                    child.call("filled", handle, False)  # noqa: FBT003 - as it goes over the wire
                raise
            block = codec.block_of(child.call("filled", handle, True))  # noqa: FBT003
            self._hold(child, handle, Held(request, block.actual_bytes, weights=True))
            return block

    def work(
        self, name: str, work: RemoteWork, token: CancelToken, report: Callable[[int, int], None]
    ) -> Any:
        """Have work done there; what it reports on its way is passed on."""
        with self._using(self._place_of(name), Executed.UNKNOWN) as child:
            return child.call(
                "work", name, work.entry, work.arguments, work.lent, token=token, on_report=report
            )

    def trim(self, device_id: str) -> int | None:
        """Give up caches there."""
        with self._using(device_id, Executed.UNKNOWN) as child:
            returned: int | None = child.call("trim", device_id)
            return returned

    def tick(self) -> None:
        """Let the backend give up what it keeps for nothing."""
        if self._restarting:  # nothing is kept for long, and timers must not wait
            return
        with suppress(DeviceUnavailableError), self._using(None, Executed.UNKNOWN) as child:
            child.call("tick", patience_s=PATIENCE_S)

    def defragment(self, device_id: str) -> Defragmented | None:
        """Join free memory there."""
        with self._using(device_id, Executed.UNKNOWN) as child:
            return codec.defragmented_of(child.call("defragment", device_id))

    def notes(self) -> tuple[str, ...]:
        """Say which process it is, and what the backend there says."""
        try:
            with self._using(None, Executed.NO) as child:
                said: list[str] = child.call("notes", patience_s=PATIENCE_S)
                return (f"in a process of its own: {child.pid}, {self._launch.python}", *said)
        except DeviceUnavailableError:
            return (f"in a process of its own, which does not run: {self._launch.python}",)

    def live(self) -> frozenset[str]:
        """Ask the process; nothing lives where there is none."""
        try:
            with self._using(None, Executed.NO) as child:
                return frozenset(child.call("live", patience_s=PATIENCE_S))
        except DeviceUnavailableError:
            return frozenset()

    # ---- restarting ----

    def restart(self, token: CancelToken) -> Restarted:
        """Replace the process, which gives back whatever it kept, and carry over all that lives in it.

        1. Wait until nobody uses it; new users wait from then on.
        2. Read everything out to host memory, twice, and compare. Can be cancelled until here.
        3. End the process and start another; tried three times, for everything is still there.
        4. Make the blocks again, largest first, fill them and compare.

        Raises:
            OutOfMemoryError: the system refused the memory for the contents; nothing was done.
            ChecksumMismatchError: a block does not read the same twice; nothing was done.
            DeviceUnavailableError: the process is gone, and all of it lost (``executed`` is yes).
        """
        with self._alone(token) as old:  # 1
            held = dict(self._held)
            carried_bytes = sum(block.request.size_bytes for block in held.values())
            try:
                before = self._process_bytes(old)
                copies = read_out(old, self._slots, held, token)  # 2
            except EndedError as error:
                raise lost(None, error.end, Executed.YES, None) from None
            child: ChildProcess | None = None
            try:
                child, found = self._replace(old)  # 3
                never = CancelToken(self._now_ns)
                back, failed = write_back(child, self._slots, held, copies, never)  # 4
                after = self._process_bytes(child)
            except Exception as error:
                raise self._lost_in_restart(child, error) from error
            finally:
                give_up(copies)
            with self._changed:
                self._held, self._gone = back, frozenset(failed)
                self._accepted = {}
            self._become(self._with_missing(found), child)
        if child.end is not None:
            self._ended(child, child.end)
        returned = None if before is None or after is None else max(0, before - after)
        steps = (
            DefragmentStep(f"read {carried_bytes} bytes out to host memory, twice", 0),
            DefragmentStep(f"process {child.pid} in place of {old.pid}", returned),
            DefragmentStep(f"make {len(back)} of {len(held)} blocks again, fill and compare", 0),
        )
        return Restarted(returned, len(back), failed, steps)

    @contextmanager
    def _alone(self, token: CancelToken) -> Iterator[ChildProcess]:
        with self._changed:
            while self._users or self._restarting:
                token.check()
                self._changed.wait(_LOOK_AGAIN_S)
            child = self._child
            if child is None:
                raise self._unavailable(None)
            self._restarting = True
        try:
            yield child
        finally:
            with self._changed:
                self._restarting = False
                self._changed.notify_all()

    def _replace(self, child: ChildProcess) -> tuple[ChildProcess, tuple[DeviceInfo, ...]]:
        with self._changed:
            self._child = None  # so that its end is nobody's loss
        child.kill("was replaced")
        return self._launching.replace(_RESTARTS_TRIED)

    def _lost_in_restart(self, child: ChildProcess | None, error: Exception) -> WorkerError:
        """Own up: the old process is gone, and no new one is there that took its contents."""
        if child is not None:
            child.kill("was stopped")
        reason = f"its contents were lost in a restart: {error}"
        with self._changed:
            self._gone, self._held = frozenset(self._held), {}
            devices = tuple(became(each, DeviceState.LOST, reason) for each in self.devices)
        self._become(devices, None)
        self._launching.bring_back()
        return lost(self.devices[0].device_id, Ending(reason, ran_out=False), Executed.YES, None)

    def _process_bytes(self, child: ChildProcess) -> int | None:
        """Return what the process has of all its devices, as the driver says."""
        there = [each.device_id for each in self.devices if each.state is DeviceState.AVAILABLE]
        readings = [codec.readings_of(child.call("readings", each, patience_s=PATIENCE_S)) for each in there]
        known = [each.process_used_bytes for each in readings if each.process_used_bytes is not None]
        return sum(known) if len(known) == len(readings) else None
