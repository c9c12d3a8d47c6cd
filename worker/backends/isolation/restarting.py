"""Another process in place of a device's own: only where what lives has a place there, and tried until it is."""

from protocol.record import Record
from protocol.results import DefragmentStep
from worker.backends.host_memory import AnonymousBuffer
from worker.backends.isolation import codec
from worker.backends.isolation.carrying import Held, write_back
from worker.backends.isolation.child_process import ChildProcess
from worker.backends.isolation.launching import LaunchError, Launching
from worker.backends.isolation.slots import Slots
from worker.core.cancellation import CancelToken
from worker.core.records import DeviceInfo, Restarted

_TRIED = 3
"""What is carried over is still safe in host memory when a new process fails to start, or does not survive."""


class Replaced(Record):
    """What came of it: a process, what it found and what is in it; or none, and why."""

    child: ChildProcess | None
    found: tuple[DeviceInfo, ...]
    back: dict[str, Held]
    displaced: dict[str, str]
    """Why, for each block that is not back; its copy is where it was."""
    why: str = ""


def replace(
    launching: Launching,
    slots: Slots,
    held: dict[str, Held],
    copies: dict[str, AnonymousBuffer],
    devices: list[str],
    token: CancelToken,
) -> Replaced:
    """Start a process and make every block again there, on these devices. The copies stay as they are."""
    why = ""
    for _ in range(_TRIED):
        try:
            child, found = launching.replace(_TRIED)
        except LaunchError as error:
            why = str(error)
            break
        try:
            back, displaced = write_back(child, slots, held, copies, token)
            for device_id in devices:
                child.call("trim", device_id)  # the hidden buffers of all that copying
        except Exception as error:  # noqa: BLE001 - whatever it is, the copies are still there
            why = str(error)
            child.kill("was stopped")
        else:
            return Replaced(child, found, back, displaced)
    return Replaced(None, (), {}, dict.fromkeys(held, why), why)


def used_bytes(child: ChildProcess, devices: list[str], patience_s: float) -> int | None:
    """Return what a process has of these devices, as the driver says. Raises as ``call``."""
    readings = [codec.readings_of(child.call("readings", each, patience_s=patience_s)) for each in devices]
    known = [each.process_used_bytes for each in readings if each.process_used_bytes is not None]
    return sum(known) if len(known) == len(readings) else None


def restarted(
    old: ChildProcess, done: Replaced, held: dict[str, Held], before: int | None, after: int | None
) -> Restarted:
    """Say what was done."""
    returned = None if before is None or after is None else max(0, before - after)
    carried_bytes = sum(block.request.size_bytes for block in held.values())
    steps = (
        DefragmentStep(f"read {carried_bytes} bytes out to host memory, twice", 0),
        DefragmentStep(f"process {done.child.pid if done.child else None} in place of {old.pid}", returned),
        DefragmentStep(f"make {len(done.back)} of {len(held)} blocks again, fill and compare", 0),
    )
    return Restarted(returned, len(done.back), done.displaced, steps)
