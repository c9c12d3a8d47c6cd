"""What each device's ledger says of owners, purposes and sums. Pure; under the manager's lock."""

from protocol.results import UsageGroup
from protocol.vocabulary import GroupBy
from worker.core.records import OwnerFlow
from worker.manager.devices import DeviceTable


class Usage:
    """Questions to the ledgers."""

    def __init__(self, devices: DeviceTable) -> None:
        self._devices = devices
        self._lock = devices.lock

    def groups(self, device_id: str, group_by: GroupBy) -> tuple[int, int, tuple[UsageGroup, ...]]:
        """Return a device's allocated bytes, their peak, and the groups."""
        with self._lock:
            ledger = self._devices.get(device_id).ledger
            return ledger.allocated_bytes, ledger.peak_allocated_bytes, ledger.groups(group_by)

    def flows(self, device_id: str) -> tuple[OwnerFlow, ...]:
        """Return what each owner has and ever had on a device."""
        with self._lock:
            return self._devices.get(device_id).ledger.flows()

    def made(self, device_id: str) -> tuple[int, int]:
        """Return how many allocations were ever made on a device, and their bytes."""
        with self._lock:
            ledger = self._devices.get(device_id).ledger
            return ledger.made_count, ledger.made_bytes

    def never_freed(self, device_id: str, owner: str | None, purpose: str | None) -> bool:
        """Tell whether no allocation of an owner and purpose was ever freed on a device."""
        with self._lock:
            return self._devices.get(device_id).ledger.never_freed(owner, purpose)

    def unleased(self, device_id: str) -> dict[tuple[str | None, str | None], tuple[int, int]]:
        """Return bytes and count by owner and purpose of what is neither kept for good nor leased."""
        with self._lock:
            held = self._devices.get(device_id).ledger.unleased
            return {pair: (size, count) for pair, (size, count) in held.items()}

    def content_bytes(self, device_id: str) -> int:
        """Return what allocations and models have on a device, as asked for."""
        with self._lock:
            ledger = self._devices.get(device_id).ledger
            return ledger.allocated_bytes + ledger.model_bytes

    def model_bytes(self, device_id: str) -> int:
        """Return what models take on a device."""
        with self._lock:
            return self._devices.get(device_id).ledger.model_bytes

    def object_bytes(self, device_id: str) -> int:
        """Return what models that are Python objects take of a device: part of the process, in no backend's figures."""
        with self._lock:
            return self._devices.object_bytes(self._devices.get(device_id))

    def exclusive_changes(self) -> int | None:
        """Count the changes on all devices so far; None while headroom is held for more than one thing."""
        with self._lock:
            ledgers = [device.ledger for device in self._devices.all()]
            if sum(len(ledger.reservations) for ledger in ledgers) > 1:
                return None
            return sum(ledger.changes for ledger in ledgers)
