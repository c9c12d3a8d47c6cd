"""Which devices there are, the process that they live in, and who uses it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType

from protocol.vocabulary import DeviceState, Executed
from worker.backends.base import OnChange
from worker.backends.isolation.child_process import ChildProcess
from worker.backends.isolation.endings import EndedError, Ending
from worker.backends.isolation.loss import became, lost
from worker.core.cancellation import CancelToken
from worker.core.errors import DeviceLostError, DeviceUnavailableError, WorkerError
from worker.core.records import DeviceInfo
from worker.core.sure_lock import SureCondition, SureRLock

_LOOK_AGAIN_S = 0.05
"""Who waits for the process exclusively checks this often whether that was cancelled."""

_DRAINED_S = 0.02
"""So long may those who come be kept waiting for those who are there to leave: always somebody is, where many make short calls. Not
until they do, for a copy may take long, and work in the process may ask for what needs the process again."""


class Presence:
    """One process at a time. Thread-safe; ``describe`` completes what is said of a device."""

    def __init__(
        self, expected: tuple[DeviceInfo, ...], describe: Callable[[DeviceInfo], DeviceInfo]
    ) -> None:
        self._describe = describe
        self.changed = SureCondition()
        """Notified when the devices, the process or its users are others than before."""
        self.telling = SureRLock()
        """Held from a change until it is told of, so that changes are told of in the order in which they came."""
        self.on_change: OnChange = lambda _: None
        # All mutable state: the devices, their process, who uses it, who waits for its last user, and whether it is
        # being replaced, or waited for by who may replace it. Who uses it is noted without the lock: an entry is added or removed at one stroke.
        self.devices = tuple(replace(each, state=DeviceState.PROBING) for each in expected)
        self.child: ChildProcess | None = None
        self.replacing = False
        self._draining = False
        self._awaited = 0
        self._users: list[str | None] = []
        self._closed = False
        self.unusable: frozenset[str | None] = frozenset()

    def known_devices(self) -> tuple[DeviceInfo, ...]:
        """Return the devices, once it is known which there are."""
        with self.changed:
            self.changed.wait_for(lambda: all(each.state is not DeviceState.PROBING for each in self.devices))
            return self.devices

    # ---- changes ----

    def become(self, devices: tuple[DeviceInfo, ...], child: ChildProcess | None) -> None:
        """Take over what a new process found, or that there is none, and tell of it."""
        devices = tuple(map(self._describe, devices))
        with self.telling:
            with self.changed:
                if not self._closed:
                    self.devices, self.child = devices, child
                    unusable = (each for each in devices if each.state is DeviceState.UNAVAILABLE)
                    self.unusable = frozenset(each.device_id for each in unusable)
                    self.changed.notify_all()
            if not self._closed:
                self.on_change(devices)
            elif child is not None:
                child.stop()  # it came too late

    def tell(self) -> None:
        """Describe the devices anew, and tell of that."""
        with self.telling:
            with self.changed:
                self.devices = devices = tuple(map(self._describe, self.devices))
                self.changed.notify_all()
            self.on_change(devices)

    def lose(self, child: ChildProcess, reason: str, forget: Callable[[], None]) -> bool:
        """Note that a process ended by itself, and tell of it. False if it was not in use any more.

        ``forget`` is called with the lock held: no thread may find what was on its devices.
        """
        with self.telling:
            with self.changed:
                if self.child is not child:
                    return False
                self.child = None
                forget()
                self.devices = devices = tuple(
                    became(each, DeviceState.LOST, reason) if each.state is DeviceState.AVAILABLE else each
                    for each in map(self._describe, self.devices)
                )
                self.changed.notify_all()
            self.on_change(devices)
            return True

    def close(self) -> None:
        """End the process, and take no other into use."""
        with self.changed:
            child, self.child, self._closed = self.child, None, True
            self.devices = tuple(became(each, DeviceState.LOST, "closed") for each in self.devices)
            self.changed.notify_all()
        if child is not None:
            child.stop()

    # ---- use ----

    def enter(
        self, device_id: str | None, token: CancelToken | None = None, waits: bool = True,  # noqa: FBT001, FBT002 - on the way of every call
    ) -> ChildProcess:  # fmt: skip
        """Use the process, until ``leave``: it is not replaced meanwhile. DeviceUnavailableError, or what the token raises.

        While it is replaced it is waited for until the token ends, or not at all.
        """
        self._users.append(device_id)
        if self.replacing or device_id in self.unusable:
            return self._enter_once_replaced(device_id, token, waits=waits)
        child = self.child  # looked at only then: from here on it is not replaced
        if child is None:
            return self._enter_once_replaced(device_id, token, waits=waits)
        return child

    def leave(self) -> None:
        """Use the process no more."""
        self._users.pop()
        if self._awaited:
            with self.changed:
                self.changed.notify_all()

    def using(
        self, device_id: str | None, executed: Executed, requested_bytes: int | None = None,
        token: CancelToken | None = None, *, waits: bool = True,
    ) -> "_Use":  # fmt: skip
        """Use the process for a ``with`` block, as ``enter`` does; says what its end means to whoever needed it."""
        return _Use(self, device_id, executed, requested_bytes, token, waits)

    @staticmethod
    def meaning(
        error: EndedError | DeviceLostError, child: ChildProcess, device_id: str | None, executed: Executed,
        requested_bytes: int | None,
    ) -> WorkerError:  # fmt: skip
        """Return what an error in a process means to whoever used it: where it is its end, that the device was lost.

        ``executed`` is what became of the call if the process ends, ``requested_bytes`` what it needed more.
        """
        if isinstance(error, EndedError):
            return lost(device_id, error.end, executed, requested_bytes)
        if error.details.get("device_id") not in {None, device_id}:
            return error
        # The backend there can do nothing more for that device. A new process can.
        child.kill(f"was stopped: {error.message}")
        return lost(device_id, Ending(error.message, ran_out=False), executed, requested_bytes)

    def _enter_once_replaced(
        self, device_id: str | None, token: CancelToken | None, *, waits: bool
    ) -> ChildProcess:
        self.leave()  # or whoever is to replace it would wait for this caller
        with self.changed:
            while self.replacing and waits:
                if token is not None:
                    token.check()
                self.changed.wait(_LOOK_AGAIN_S)
            child = self.child
            replaced = self.replacing and not self._draining
            if child is None or replaced or device_id in self.unusable:
                raise self.unavailable(device_id)
            self._users.append(device_id)
            return child

    @contextmanager
    def exclusive(self, token: CancelToken) -> Iterator[ChildProcess]:
        """Hand out the process once no caller uses it, to be replaced; who needs it meanwhile waits."""
        with self.changed:
            self._awaited += 1
            try:
                while self.replacing or not self._claim():
                    token.check()
                    self.changed.wait_for(lambda: not (self._users or self.replacing), _LOOK_AGAIN_S)
            finally:
                self._awaited -= 1
        try:
            child = self.child
            if child is None:
                raise self.unavailable(None)
            yield child
        finally:
            with self.changed:
                self.replacing = False
                self.changed.notify_all()

    def _claim(self) -> bool:
        """Have new users wait, unless somebody still uses the process in a moment: whoever comes notes that first, and then looks."""
        self.replacing = self._draining = True
        try:
            self.changed.wait_for(lambda: not self._users, _DRAINED_S)
        finally:
            self._draining = False
            self.replacing = not self._users
            self.changed.notify_all()
        return self.replacing

    def give_up(self) -> None:
        """Note that the process's end is no loss: all that lives in it was read out."""
        with self.changed:
            self.child = None

    def unavailable(self, device_id: str | None) -> DeviceUnavailableError:
        """Make the error for a device that no process has, or that is being replaced."""
        info = next((each for each in self.devices if each.device_id == device_id), self.devices[0])
        replaced = self.replacing and info.state is DeviceState.AVAILABLE
        why = "its process is being replaced" if replaced else info.state_reason
        message = f"{info.device_id} is {info.state}: {why}"
        error = DeviceUnavailableError(message, device_id=info.device_id, state=info.state)
        error.executed = Executed.NO
        return error


class _Use:
    """The process in use, while a block runs. Not a generator: it is on the way of every call."""

    __slots__ = ("_child", "_device_id", "_executed", "_presence", "_requested_bytes", "_token", "_waits")

    def __init__(
        self, presence: Presence, device_id: str | None, executed: Executed, requested_bytes: int | None,
        token: CancelToken | None, waits: bool,  # noqa: FBT001 - on the way of every call
    ) -> None:  # fmt: skip
        self._presence = presence
        self._device_id = device_id
        self._executed = executed
        self._requested_bytes = requested_bytes
        self._token = token
        self._waits = waits

    def __enter__(self) -> ChildProcess:
        self._child = child = self._presence.enter(self._device_id, self._token, self._waits)
        return child

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, EndedError | DeviceLostError):
                meaning = self._presence.meaning(
                    error, self._child, self._device_id, self._executed, self._requested_bytes
                )
                if meaning is not error:
                    raise meaning from None
        finally:
            self._presence.leave()
