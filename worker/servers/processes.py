"""What a server's processes take of a device, where the server itself does not say."""

from collections.abc import Callable, Mapping

import psutil

HeldBy = Callable[[], Mapping[int, int | None] | None]
"""Returns what each process holds of the device; None where no source lists them."""


def listening_on(port: int) -> psutil.Process | None:
    """Return the process that listens on a port of this machine; None where that can't be seen: it is another user's."""
    try:
        found = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return None
    for each in found:
        if (
            each.status == psutil.CONN_LISTEN
            and each.pid is not None
            and each.laddr
            and each.laddr.port == port
        ):
            try:
                return psutil.Process(each.pid)
            except psutil.Error:
                return None
    return None


def resident_bytes(process: psutil.Process) -> int | None:
    """Return what a process and those that it started take of the machine's memory; None where that can't be seen."""
    try:
        family = [process, *process.children(recursive=True)]
        return sum(_own_bytes(each) for each in family)
    except psutil.Error:
        return None


def device_bytes(process: psutil.Process, held: Mapping[int, int | None] | None) -> int | None:
    """Return what a process and those that it started hold of a device, by what each process does; None if unknown."""
    if held is None:
        return None
    try:
        pids = [process.pid, *(each.pid for each in process.children(recursive=True))]
    except psutil.Error:
        return None
    known = [size for pid in pids if (size := held.get(pid)) is not None]
    return sum(known) if known else None


def _own_bytes(process: psutil.Process) -> int:
    """Return what would be free without a process: mapped files count, for weights are often mapped."""
    return int(process.memory_info().rss)
