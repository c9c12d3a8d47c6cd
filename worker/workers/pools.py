"""What devices keep for reuse, as consumers: nothing of it has to be rebuilt, so it goes first."""

from collections.abc import Iterator

from worker.core.cancellation import CancelToken
from worker.core.consumers import POOL, POOL_PREFIX, Holding, Offer
from worker.wiring import Core


class PoolConsumer:
    """What a device keeps for reuse: nothing has to be rebuilt, so it goes first."""

    kind = POOL

    def __init__(self, core: Core, device_id: str) -> None:
        self.consumer_id, self.device_id = f"{POOL_PREFIX}{device_id}", device_id
        self._samples = core.manager.samples
        self._backend = core.backends[device_id]

    def holding(self) -> Holding:
        """Return what is kept, by the last readings."""
        readings = self._samples.latest(self.device_id)
        return Holding(0 if readings is None else readings.cached_bytes)

    def offers(self, _need_bytes: int) -> tuple[Offer, ...]:
        """Offer all of it, where it goes back to the system without the end of the device's process."""
        readings = self._samples.latest(self.device_id)
        if readings is None or not readings.cached_bytes or readings.restart_returns_bytes is not None:
            return ()
        return (Offer(readings.cached_bytes, 0.0, "kept for reuse, and holds nothing"),)

    def release(self, offer: Offer, _token: CancelToken) -> int:
        """Give it up."""
        returned = self._backend.trim(self.device_id)
        return offer.bytes if returned is None else returned


def pools(core: Core, device_id: str | None) -> Iterator[PoolConsumer]:
    """Return the pool of a device, or of each."""
    for each in core.backends if device_id is None else (device_id,):
        yield PoolConsumer(core, each)
