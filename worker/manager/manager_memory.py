"""The numbers: what is allocated where, what can still be had, and what is over a limit.

Pure: it is given a clock and readings, and touches no device. One lock guards all of it and is
never held across I/O. A change is reserved, then made by a backend, then committed or released.
"""

from dataclasses import replace

from protocol.results import ContentsDisplacedData
from protocol.vocabulary import DeviceState
from worker.core.clock import Clock
from worker.core.ids import Ids
from worker.core.records import DeviceInfo, Lost, age_order
from worker.manager.allocation_table import AllocationTable
from worker.manager.batch_table import BatchTable
from worker.manager.consumer_table import ConsumerTable
from worker.manager.devices import DeviceTable
from worker.manager.due_table import DueTable
from worker.manager.model_table import ModelTable
from worker.manager.pressure_table import PressureTable
from worker.manager.sample_table import SampleTable
from worker.manager.usage import Usage
from worker.manager.weight_table import WeightTable
from worker.policy.levels import DWELL_NS


class MemoryManager:
    """What is on every device, and what is about to be: a table for each concern, under one lock."""

    def __init__(self, clock: Clock, dwell_ns: int = DWELL_NS, ids: Ids | None = None) -> None:
        self._clock = clock
        self.ids = ids or Ids()
        self.devices = DeviceTable(clock)
        self.lock = self.devices.lock
        self.samples = SampleTable(self.devices, clock)
        self.pressure = PressureTable(self.devices, clock, dwell_ns)
        self.due = DueTable(self.lock)
        self.allocations = AllocationTable(self.devices, self.pressure, self.due, clock, self.ids)
        self.weights = WeightTable(self.devices)
        self.usage = Usage(self.devices)
        self.models = ModelTable(self.lock, self.due)
        self.consumers = ConsumerTable(self.lock, clock)
        self.batches = BatchTable(self.ids)

    def lose_device(self, device_id: str, reason: str) -> Lost | None:
        """Remove what was on a device that went away. Returns what was lost; None if that was known.

        MemoryError: called again, it goes on.
        External allocations stay: the host holds them, and knows what became of them.
        """
        with self.lock:
            device = self.devices.get(device_id)
            if device.info.state is DeviceState.LOST:
                return None
            info: DeviceInfo = replace(device.info, state=DeviceState.LOST, state_reason=reason)
            now, version = self._clock.now_ns(), self.devices.version + 1
            ledger = device.ledger
            going = tuple(each for each in ledger.allocations.values() if not each.external)
            device.losing = device.losing or going
            for allocation in going:
                self.allocations.remove(allocation.allocation_id, ending="device_lost")
            ledger.drop_weights()
            ledger.drop_reservations()
            found = Lost(device.losing, self.models.lose(device_id, reason))
            device.info, device.lost_ns, device.readings, self.devices.version = info, now, None, version
            device.losing = ()
            return found

    def displaced(self, device_id: str) -> ContentsDisplacedData:
        """Return what of a device's contents is in host memory, until the device has headroom for it again."""
        with self.lock:
            device = self.devices.get(device_id)
            names, ledger = device.info.displaced, device.ledger
            found = (ledger.allocations[each] for each in names & ledger.allocations.keys())
            allocations, handles = sorted(found, key=age_order), names & ledger.weights.keys()
            sizes = [each.size_bytes for each in allocations] + [ledger.weights[each][0] for each in handles]
            return ContentsDisplacedData(
                device_id=device_id,
                reason=device.info.state_reason if names else None,
                displaced_bytes=sum(sizes),
                allocation_ids=tuple(each.allocation_id for each in allocations),
                model_ids=self.models.whose(frozenset(handles)),
            )
