"""Transfers between any two devices, with what is asked of both before and after."""

from protocol.results import TransferResult
from protocol.vocabulary import MemoryType, TransferType
from worker.core.cancellation import CancelToken
from worker.core.records import Report
from worker.watch.device_monitor import DeviceMonitor
from worker.workers.transfer import TransferWorker


class Transfers:
    """Every transfer of the worker."""

    def __init__(self, monitor: DeviceMonitor, worker: TransferWorker) -> None:
        self._monitor = monitor
        self._worker = worker
        self.open, self.get, self.abandon = worker.open, worker.get, worker.abandon

    def perform(
        self,
        transfer_id: str,
        destination_id: str,
        kind: TransferType,
        memory_type: MemoryType,
        token: CancelToken,
        report: Report,
        *,
        verify: bool,
    ) -> TransferResult:
        """Carry a transfer out. Whatever fails is in its record."""
        try:
            devices = self._worker.get(transfer_id)
            ends = (devices.source_device_id, devices.destination_device_id)
            self._monitor.wait_until_known(ends, token)
            with self._monitor.watching_for_loss():
                self._monitor.refresh(ends, max_age_ms=0)
                result = self._worker.perform(
                    transfer_id, destination_id, kind, memory_type, token, report, verify=verify
                )
        except BaseException as error:
            self._worker.abandon(transfer_id, error)
            raise
        self._monitor.observe(ends)
        return result
