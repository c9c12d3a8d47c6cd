"""How the devices are, for ``worker.get_health``."""

from collections.abc import Iterator

from protocol.vocabulary import DeviceState, HealthState
from worker.core.clock import NS_PER_S, Clock
from worker.core.health import PartHealth
from worker.manager.manager_memory import MemoryManager

_HEALTH = {
    DeviceState.AVAILABLE: HealthState.OK,
    DeviceState.PROBING: HealthState.STARTING,
    DeviceState.UNAVAILABLE: HealthState.OFF,
    DeviceState.LOST: HealthState.FAILED,
}


_STALE_NS = 12 * NS_PER_S
"""Figures that are older are of a device that does not answer: even where all is calm it is asked every 5 s."""


def device_health(manager: MemoryManager, clock: Clock) -> Iterator[PartHealth]:
    """Tell of each device; one whose contents wait in host memory works, and slower, and one that hangs may not at all."""
    for device_id in manager.devices.ids():
        info = manager.devices.info(device_id)
        health, reason = _HEALTH[info.state], info.state_reason
        if health is HealthState.OK:
            read_ns = manager.samples.read_ns(device_id)
            age_ns = 0 if read_ns is None else clock.now_ns() - read_ns
            if age_ns > _STALE_NS:
                health = HealthState.DEGRADED
                reason = f"it does not answer: its figures are {age_ns // NS_PER_S} s old"
            elif info.displaced:
                health = HealthState.DEGRADED
        yield PartHealth(f"device:{device_id}", health, reason)
