"""The models' weights on each device, the worker's own and external ones. Pure; under the manager's lock."""

import itertools

from protocol.vocabulary import MemoryType
from worker.core.atomic import Store, store_together
from worker.core.records import AllocationRequest, Reservation
from worker.manager.devices import Device, DeviceTable, went_with_its_device
from worker.policy.admission import count


class WeightTable:
    """What models take, by the handle under which their backend has them."""

    def __init__(self, devices: DeviceTable) -> None:
        self._devices = devices
        self._lock = devices.lock
        self._handles = itertools.count(1)

    def new_handle(self) -> str:
        """Return a handle that was never given before."""
        return f"weights-{next(self._handles)}"

    def add(
        self,
        reservation: Reservation,
        handle: str,
        size_bytes: int,
        actual_bytes: int,
        *,
        is_object: bool = False,
        working_bytes: int = 0,
    ) -> None:
        """Add a model's weights, by what they turned out to take, in place of what was held for them.

        ``working_bytes``: what is kept free for the model's work.
        ``is_object``: they are no block of the device's backend, but what this process grew by.
        DeviceUnavailableError if the device went away meanwhile.
        """
        with self._lock:
            device = self._devices.get(reservation.request.device_id)
            if not device.ledger.holds(reservation):
                raise went_with_its_device(device.info)
            added = device.ledger.adding_weights(
                handle, size_bytes, actual_bytes, is_object=is_object, working_bytes=working_bytes
            )
            self._store(device, [*device.ledger.releasing(reservation), *added])

    def resize(self, device_id: str, handle: str, more_bytes: int, working_bytes: int) -> None:
        """Note that a model takes more, or less where that is below 0, and what is kept free for it now.

        Nothing happens if it is not there any more.
        """
        with self._lock:
            device = self._devices.get(device_id)
            if handle in device.ledger.weights:
                self._store(device, device.ledger.resizing_weights(handle, more_bytes, working_bytes))

    def pin(self, device_id: str, handle: str, *, pinned: bool) -> None:
        """Note whether weights stay until they are unloaded by name."""
        with self._lock:
            ledger = self._devices.get(device_id).ledger
            if pinned and handle in ledger.weights:
                ledger.pinned[handle] = None
            else:
                ledger.pinned.pop(handle, None)

    def last_sample(self, device_id: str) -> int:
        """Return a mark by which ``remove`` sees whether the device was read since."""
        with self._lock:
            device = self._devices.get(device_id)
            return min(device.ledger.samples, default=device.samples_begun + 1) - 1

    def remove(self, device_id: str, handle: str, last_sample: int) -> None:
        """Remove a model's weights; nothing happens if they went with their device.

        ``last_sample`` is from before the device gave them up. Where it was read since, those readings may
        show what came back already: it is not counted a second time, and if they do not, the next ones do.
        """
        with self._lock:
            device = self._devices.get(device_id)
            ledger = device.ledger
            stores = ledger.removing_weights(handle)
            if last_sample != device.samples_begun and handle in ledger.weights:
                shown = ledger.noted_bytes - ledger.weights[handle][1]
                stores.append((vars(ledger), "noted_bytes", shown))
            self._store(device, stores)

    def add_external(self, device_id: str, handle: str, size_bytes: int) -> None:
        """Record a model that another process holds; it takes no headroom of ours.

        LimitExceededError where the sum could not be counted any more.
        """
        with self._lock:
            device = self._devices.get(device_id)
            request = AllocationRequest(device_id, size_bytes, MemoryType.EXTERNAL)
            count(request, device.ledger.external_bytes + device.ledger.allocated_bytes)
            self._store(device, device.ledger.adding_external_model(handle, size_bytes))

    def remove_external(self, device_id: str, handle: str) -> None:
        """Remove the record of a model that another process held: what it gave back is in the next readings."""
        with self._lock:
            device = self._devices.get(device_id)
            self._store(device, device.ledger.removing_external_model(handle))

    def handles(self, device_id: str) -> frozenset[str]:
        """Return the handles of all weights on a device."""
        with self._lock:
            return frozenset(self._devices.get(device_id).ledger.weights)

    def _store(self, device: Device, stores: list[Store]) -> None:
        store_together([*stores, *self._devices.changing(device)])
