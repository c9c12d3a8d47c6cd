"""What the end of a process means: to its devices, and to whoever was waiting for it."""

from dataclasses import replace

from protocol.vocabulary import DeviceState, Executed
from worker.backends.isolation.endings import Ending
from worker.core.errors import DeviceUnavailableError, OutOfMemoryError
from worker.core.records import DeviceInfo


def became(info: DeviceInfo, state: DeviceState, why: str) -> DeviceInfo:
    """Return a device in another state, and why."""
    return replace(info, state=state, state_reason=why)


def lost(
    device_id: str | None, end: Ending, executed: Executed, requested_bytes: int | None
) -> OutOfMemoryError | DeviceUnavailableError:
    """Return the error for a call that did not survive: out of memory where the process died of that."""
    name = device_id or "the device"
    error: OutOfMemoryError | DeviceUnavailableError
    if end.ran_out and requested_bytes is not None:
        message = f"{name} ran out of memory and was lost: {end.reason}"
        error = OutOfMemoryError(message, device_id=device_id, requested_bytes=requested_bytes)
    else:
        message = f"{name} was lost, and what was on it: {end.reason}"
        error = DeviceUnavailableError(message, device_id=device_id, state=DeviceState.LOST)
    error.executed = executed
    return error
