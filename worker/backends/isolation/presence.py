"""Which devices there are, the process that they live in, and who uses it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType

from protocol.vocabulary import DeviceState, Executed
from worker.backends.base import OnChange
from worker.backends.isolation.child_process import ChildProcess, EndedError
from worker.backends.isolation.endings import Ending
from worker.backends.isolation.loss import became, lost
from worker.core.cancellation import CancelToken
from worker.core.errors import DeviceLostError, DeviceUnavailableError
from worker.core.records import DeviceInfo
from worker.core.sure_lock import SureCondition, SureRLock

_LOOK_AGAIN_S = 0.05
"""Who waits for the process exclusively checks this often whether that was cancelled."""


class Presence:
    """One process at a time. Thread-safe; ``describe`` completes what is said of a device."""

    def __init__(
        self, expected: tuple[DeviceInfo, ...], describe: Callable[[DeviceInfo], DeviceInfo]
    ) -> None:
        self._describe = describe
        self.changed = SureCondition()
        """Notified when the devices, the process or its users are others than before."""
        self.lock, self.unlock = self.changed.acquire, self.changed.release
        self.telling = SureRLock()
        """Held from a change until it is told of, so that changes are told of in the order in which they came."""
        self.on_change: OnChange = lambda _: None
        # All mutable state: the devices, their process, who uses it, who waits for its last user, and whether it is
        # being replaced.
        self.devices = tuple(replace(each, state=DeviceState.PROBING) for each in expected)
        self.child: ChildProcess | None = None
        self.replacing = False
        self.users = self.awaited = 0
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

    def using(
        self, device_id: str | None, executed: Executed, requested_bytes: int | None = None,
        token: CancelToken | None = None, *, waits: bool = True,
    ) -> "_Use":  # fmt: skip
        """Hand out the process, for a ``with`` block; says what its end means to whoever needed it.

        ``executed`` is what became of the call if the process ends, ``requested_bytes`` what it needed more.
        While it is replaced it is waited for until the token ends, or not at all.
        """
        return _Use(self, device_id, executed, requested_bytes, token, waits)

    @contextmanager
    def exclusive(self, token: CancelToken) -> Iterator[ChildProcess]:
        """Hand out the process once no caller uses it, to be replaced; who needs it meanwhile waits."""
        with self.changed:
            self.awaited += 1
            try:
                while self.users or self.replacing:
                    token.check()
                    self.changed.wait(_LOOK_AGAIN_S)
            finally:
                self.awaited -= 1
            child = self.child
            if child is None:
                raise self.unavailable(None)
            self.replacing = True
        try:
            yield child
        finally:
            with self.changed:
                self.replacing = False
                self.changed.notify_all()

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
        """Take the process until the block ends. DeviceUnavailableError, or what the token raises."""
        presence = self._presence
        presence.lock()
        try:
            if presence.replacing and self._waits:
                self._wait_while_replacing()
            child = presence.child
            if child is None or presence.replacing or self._device_id in presence.unusable:
                raise presence.unavailable(self._device_id)
            presence.users += 1
        finally:
            presence.unlock()
        self._child = child
        return child

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                self._explain(error)
        finally:
            presence = self._presence
            presence.lock()
            try:
                presence.users -= 1
                if presence.awaited:
                    presence.changed.notify_all()
            finally:
                presence.unlock()

    def _wait_while_replacing(self) -> None:
        while self._presence.replacing:
            if self._token is not None:
                self._token.check()
            self._presence.changed.wait(_LOOK_AGAIN_S)

    def _explain(self, error: BaseException) -> None:
        """Raise what the end of the process means to whoever needed it, if that is what the error is."""
        if isinstance(error, EndedError):
            raise lost(self._device_id, error.end, self._executed, self._requested_bytes) from None
        if isinstance(error, DeviceLostError) and error.details.get("device_id") in {None, self._device_id}:
            # The backend there can do nothing more for that device. A new process can.
            self._child.kill(f"was stopped: {error.message}")
            end = Ending(error.message, ran_out=False)
            raise lost(self._device_id, end, self._executed, self._requested_bytes) from None
