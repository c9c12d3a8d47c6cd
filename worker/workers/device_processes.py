"""Who else holds memory of a device."""

import os
from collections.abc import Mapping

import psutil

from protocol.results import DeviceProcess
from worker.backends.base import DeviceBackend, KnowsProcesses
from worker.core.errors import DeviceUnavailableError


class DeviceProcesses:
    """The processes on each device, as drivers and the system list them."""

    def __init__(self, backends: Mapping[str, DeviceBackend]) -> None:
        self._backends = backends

    def on(self, device_id: str) -> tuple[DeviceProcess, ...] | None:
        """Return who holds memory of a device, the largest first; None where no source lists them."""
        backend = self._backends[device_id]
        if not isinstance(backend, KnowsProcesses):
            return None
        try:
            found = backend.processes(device_id, tuple(psutil.pids()))
        except (
            DeviceUnavailableError,
            OSError,
            IndexError,
        ):  # the last two: where there is no /proc, or an empty one
            return None
        if found is None:
            return None
        ours = _this_and_children()
        rows = [DeviceProcess(pid, _name(pid), held, pid in ours) for pid, held in found.items()]
        return tuple(sorted(rows, key=lambda row: (-(row.bytes or 0), row.pid)))

    def held(self, device_id: str, pid: int) -> int | None:
        """Return what a process holds of a device: 0 for one that is not listed; None where no source says."""
        backend = self._backends[device_id]
        if not isinstance(backend, KnowsProcesses):
            return None
        try:
            found = backend.processes(device_id, (pid,))
        except DeviceUnavailableError:
            return None
        return None if found is None else found.get(pid, 0)


def _this_and_children() -> set[int]:
    try:
        return {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    except psutil.Error:
        return {os.getpid()}


def _name(pid: int) -> str | None:
    """Return the name of a process's program; None where the system does not say, or counts processes otherwise."""
    try:
        return psutil.Process(pid).name() or None
    except (psutil.Error, OSError):
        return None
