"""Replacing a device's process, so that all it kept goes back to the system: held still, carried over, told of."""

from collections.abc import Callable

from protocol.results import DefragmentResult, DefragmentStep, Fragmentation
from protocol.vocabulary import DeviceState, Initialize
from worker.backends.base import OwnProcess
from worker.core.cancellation import CancelToken
from worker.core.errors import DeviceUnavailableError, LimitExceededError, ModelBusyError, OutOfMemoryError
from worker.core.records import HOST, AllocationRequest, Reservation, Restarted, sum_if_known
from worker.watch.device_monitor import DeviceMonitor
from worker.wiring import Core

CheckUnused = Callable[[tuple[str, ...], CancelToken], None]
"""Raises ModelBusyError where a model on one of these devices is in use, and waits while one comes or goes;
the manager's lock is held."""


class RestartWorker:
    """One restart at a time for each process."""

    def __init__(self, core: Core, monitor: DeviceMonitor) -> None:
        self._manager = core.manager
        self._backends = core.backends
        self._monitor = monitor

    def can_restart(self, device_id: str) -> bool:
        """Tell whether a device has a process of its own that keeps what only its end gives back."""
        if not isinstance(self._backends[device_id], OwnProcess):
            return False
        self._monitor.refresh((device_id,), max_age_ms=0)
        readings = self._manager.samples.latest(device_id)
        return readings is not None and readings.restart_helps

    def neighbours(self, device_id: str) -> tuple[str, ...]:
        """Return the devices that live in the same process, itself included."""
        mine = self._backends[device_id]
        return tuple(each for each, backend in list(self._backends.items()) if backend is mine)

    def restart(
        self, device_id: str, token: CancelToken, check_unused: CheckUnused, needed_bytes: int = 0
    ) -> Restarted:
        """Restart a device's process, where a new one has a place for all that lives and ``needed_bytes`` more.

        1. No model there is leased: then its devices are paused, and who needs one waits.
        2. Host memory for the contents is held, so that nothing else takes it meanwhile.
        3. The backend replaces the process; what finds no headroom there after all waits in host memory, which the
           backend tells of.

        Raises:
            ModelBusyError: a lease is held; nothing was done.
            OutOfMemoryError: host memory, or a new process, has no place for the contents; nothing was done.
            DeviceUnavailableError: the device was lost on the way, or no new process starts. The details say
                what was lost with it, in ``lost_allocation_ids``.
        """
        backend, devices = self._backends[device_id], self.neighbours(device_id)
        if not isinstance(backend, OwnProcess):
            raise TypeError(device_id)
        with self._manager.lock:  # 1
            check_unused(devices, token)
            self._manager.devices.pause(
                devices, "its process is being replaced; what is on it is carried over"
            )
            here = [row.allocation_id for each in devices for row in self._manager.allocations.all(each)]
        try:
            held = self._hold_host_memory(devices)  # 2
            try:
                return backend.restart(token, needed_bytes)  # 3
            finally:
                if held is not None:
                    self._manager.allocations.release(held)
        except DeviceUnavailableError as error:
            gone = [each for each in here if not self._manager.allocations.knows(each)]
            error.details = {**error.details, "lost_allocation_ids": gone}
            raise
        finally:
            self._manager.devices.resume(devices)

    def restart_for(self, request: AllocationRequest, token: CancelToken, check_unused: CheckUnused) -> bool:
        """Restart where only a new process has what is needed in one piece.

        This one's memory is scattered, its pool was made under a smaller budget, or loads that hang hold it. False where
        a new one has not either, or a restart is refused: then nothing was done. Errors as ``restart`` otherwise.
        """
        readings = self._manager.samples.latest(request.device_id)
        if readings is None or not readings.restart_helps:
            return False
        largest = readings.largest_block_bytes
        if largest is None and readings.stuck_bytes:
            largest = readings.free_bytes
        if largest is None or request.size_bytes <= largest:
            return False
        try:
            self.restart(request.device_id, token, check_unused, request.size_bytes)
        except (ModelBusyError, OutOfMemoryError):
            if self._manager.devices.info(request.device_id).state is not DeviceState.AVAILABLE:
                raise
            return False
        self._monitor.refresh((request.device_id,), max_age_ms=0)
        return True

    def defragment(
        self,
        device_ids: tuple[str, ...],
        in_place: Callable[[tuple[str, ...]], DefragmentResult],
        token: CancelToken,
        check_unused: CheckUnused,
    ) -> DefragmentResult:
        """Restart what only a new process returns memory of, and join free memory in place on the other devices.

        The one device that was asked for is restarted or it fails; of several, one that can't be stays as it is.
        """
        restartable = frozenset(filter(self.can_restart, device_ids))
        apart = {self.neighbours(each) for each in restartable}
        stay = tuple(each for each in device_ids if each not in restartable)
        parts = [in_place(stay)] if stay else []
        for devices in sorted(apart):
            before = self._fragmentation(devices)
            try:
                done = self.restart(devices[0], token, check_unused)
            except (ModelBusyError, OutOfMemoryError) as error:
                if len(device_ids) == 1:
                    raise
                step = DefragmentStep(f"{', '.join(devices)}: not restarted: {error.message}", 0)
                parts.append(DefragmentResult(0, 0, None, None, (step,), ()))
                continue
            steps = tuple(
                DefragmentStep(f"{', '.join(devices)}: {each.step}", each.returned_bytes)
                for each in done.steps
            )
            after = self._fragmentation(devices)
            parts.append(DefragmentResult(done.returned_bytes, done.moved, before, after, steps, ()))
        single = len(device_ids) == 1
        return DefragmentResult(
            returned_bytes=sum_if_known(each.returned_bytes for each in parts),
            allocations_moved=sum(each.allocations_moved for each in parts),
            fragmentation_before=parts[0].fragmentation_before if single else None,
            fragmentation_after=parts[0].fragmentation_after if single else None,
            steps=tuple(step for each in parts for step in each.steps),
            displaced=tuple(
                each for each in map(self._manager.displaced, device_ids) if each.displaced_bytes
            ),
        )

    def _fragmentation(self, devices: tuple[str, ...]) -> Fragmentation | None:
        self._monitor.refresh(devices, max_age_ms=0, forced=True)
        readings = self._manager.samples.latest(devices[0])
        return None if readings is None or len(devices) > 1 else readings.fragmentation

    def _hold_host_memory(self, devices: tuple[str, ...]) -> Reservation | None:
        needed = sum(self._manager.usage.content_bytes(each) for each in devices)
        if not needed:
            return None
        self._monitor.refresh((HOST,), max_age_ms=0)
        request = AllocationRequest(HOST, needed, initialize=Initialize.NONE, purpose="restart")
        try:
            return self._manager.allocations.reserve(request, f"contents of {devices[0]}")
        except (LimitExceededError, OutOfMemoryError) as error:
            message = f"{needed} bytes are to be carried over through host memory: {error.message}"
            refused = OutOfMemoryError(message, **error.details)
            refused.retryable = error.retryable
            raise refused from error
