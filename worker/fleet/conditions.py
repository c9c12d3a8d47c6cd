"""How a node is, as its gateway knows it: decided once for whoever asks it, refuses in its place, or shows it."""

from typing import NamedTuple

from protocol.vocabulary import DeviceState, HealthState
from worker.fleet.known import KnownNode
from worker.fleet.losses import Lost


class Condition(NamedTuple):
    """Whether a node can be asked and placed on."""

    health: HealthState
    devices: DeviceState | None = None
    """What its devices are for that; None where it can be asked, and says itself."""
    why: str | None = None
    """In words that follow its name; None where it is well."""


def condition(lost: Lost | None, silent: str | None, known: KnownNode | None, now_ns: int) -> Condition:
    """Say how a node is, by what holds first: it is lost; it hangs; it never told of itself; its lease with the directory ended."""
    if lost is not None:
        return Condition(HealthState.FAILED, DeviceState.LOST, f"is lost: {lost.why}")
    if silent is not None:
        return Condition(HealthState.DEGRADED, DeviceState.UNAVAILABLE, silent)
    if known is None:
        return Condition(HealthState.STARTING, DeviceState.PROBING, "is being started")
    if (known.leased_until_ns or 0) < now_ns:
        return Condition(
            HealthState.DEGRADED, None, "is not heard of by the directory: nothing is placed there"
        )
    return Condition(HealthState.OK)
