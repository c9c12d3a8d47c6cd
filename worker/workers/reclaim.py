"""Giving memory up: caches, allocations, and free memory in pieces."""

from protocol.results import ClearResult, DefragmentResult, DefragmentStep, Fragmentation, Kept
from protocol.vocabulary import CLEARED_IDS_MAX, ClearType
from worker.core.cancellation import CancelToken
from worker.core.errors import AllocationNotFoundError, DeviceLostError, DeviceUnavailableError
from worker.core.records import sum_if_known
from worker.wiring import Core
from worker.workers.allocation import AllocationWorker


class ReclaimWorker:
    """Clears and defragments whole devices."""

    def __init__(self, core: Core, allocations: AllocationWorker) -> None:
        self._manager = core.manager
        self._backends = core.backends
        self._allocations = allocations

    def clear(
        self,
        device_ids: tuple[str, ...],
        kind: ClearType,
        owner: str | None,
        token: CancelToken,
        *,
        force: bool,
    ) -> ClearResult:
        """Free what the kind names. Can be cancelled until it starts."""
        token.check()
        cleared, freed, kept = 0, list[str](), list[Kept]()
        returned: list[int | None] = []
        for device_id in device_ids:
            readings = self._manager.samples.latest(device_id)
            if kind in {ClearType.CACHE, ClearType.ALL}:
                cleared += readings.cached_bytes if readings is not None else 0
            if kind in {ClearType.ALLOCATIONS, ClearType.ALL}:
                for allocation in self._manager.allocations.all(device_id):
                    request = allocation.request
                    if owner is not None and request.owner != owner:
                        continue
                    if not force and (request.persistent or allocation.external):
                        why = "persistent" if request.persistent else "held by the host"
                        kept.append(Kept(allocation.allocation_id, f"{why}; force: true clears it too"))
                        continue
                    try:
                        _, went_back = self._allocations.free(allocation.allocation_id)
                    except AllocationNotFoundError:
                        continue  # it went by itself meanwhile: with its lease, or its device
                    returned.append(0 if allocation.external else went_back)
                    cleared += allocation.size_bytes
                    freed.append(allocation.allocation_id)
            if kind in {ClearType.CACHE, ClearType.ALL}:
                # Last, so that what the frees above left in the cache goes too.
                returned.append(self._backends[device_id].trim(device_id))
        listed = tuple(freed) if len(freed) <= CLEARED_IDS_MAX else None
        return ClearResult(cleared, sum_if_known(returned), len(freed), (), tuple(kept), listed)

    def defragment(self, device_ids: tuple[str, ...], token: CancelToken) -> DefragmentResult:
        """Give caches up and join free memory, device by device. Can be cancelled until it starts."""
        token.check()
        steps, moved = list[DefragmentStep](), 0
        before = [self._fragmentation(device_id) for device_id in device_ids]
        for device_id in device_ids:
            backend = self._backends[device_id]
            steps.append(DefragmentStep(f"{device_id}: give up caches", backend.trim(device_id)))
            joined = backend.defragment(device_id)
            if joined is not None:
                moved += joined.moved
                steps.append(DefragmentStep(f"{device_id}: join free memory", joined.returned_bytes))
        after = [self._fragmentation(device_id) for device_id in device_ids]
        single = len(device_ids) == 1
        return DefragmentResult(
            returned_bytes=sum_if_known(step.returned_bytes for step in steps),
            allocations_moved=moved,
            fragmentation_before=before[0] if single else None,
            fragmentation_after=after[0] if single else None,
            steps=tuple(steps),
            displaced=(),
        )

    def _fragmentation(self, device_id: str) -> Fragmentation | None:
        """Read how free memory lies; None also where the device does not say so in time. DeviceLostError."""
        try:
            return self._backends[device_id].readings(device_id).fragmentation
        except DeviceLostError:
            raise
        except DeviceUnavailableError:
            return None
