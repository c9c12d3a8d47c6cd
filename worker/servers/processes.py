"""What a server's processes take of a device, where the server itself does not say."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

import psutil

HeldBy = Callable[[tuple[int, ...]], Mapping[int, int | None] | None]
"""Returns what each of these processes holds of the device; None where no source lists them."""


def listening_on(ports: Collection[int]) -> dict[int, psutil.Process]:
    """Return the processes that listen on ports of this machine, in one scan; none for what is another user's."""
    try:
        connections = psutil.net_connections("tcp") if ports else []
    except (psutil.Error, OSError):
        return {}
    found: dict[int, psutil.Process] = {}
    for each in connections:
        if each.status != psutil.CONN_LISTEN or each.pid is None or not each.laddr:
            continue
        port = each.laddr.port
        if port in ports and port not in found:
            with suppress(psutil.Error):
                found[port] = psutil.Process(each.pid)
    return found


def resident_bytes(process: psutil.Process) -> int | None:
    """Return what a process and those that it started take of the machine's memory; None where that can't be seen.

    Mapped files count, for weights are often mapped.
    """
    try:
        family = [process, *process.children(recursive=True)]
        return sum(int(each.memory_info().rss) for each in family)
    except psutil.Error:
        return None


def device_bytes(process: psutil.Process, held_by: HeldBy) -> int | None:
    """Return what a process and those that it started hold of a device, by what each process does; None if unknown."""
    try:
        pids = (process.pid, *(each.pid for each in process.children(recursive=True)))
    except psutil.Error:
        return None
    held = held_by(pids) or {}
    known = [size for pid in pids if (size := held.get(pid)) is not None]
    return sum(known) if known else None
