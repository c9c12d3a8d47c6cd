"""How the devices are, for ``worker.get_health``."""

from collections.abc import Iterator

from protocol.vocabulary import DeviceState, HealthState
from worker.core.health import PartHealth
from worker.manager.manager_memory import MemoryManager

_HEALTH = {
    DeviceState.AVAILABLE: HealthState.OK,
    DeviceState.PROBING: HealthState.STARTING,
    DeviceState.UNAVAILABLE: HealthState.OFF,
    DeviceState.LOST: HealthState.FAILED,
}


def device_health(manager: MemoryManager) -> Iterator[PartHealth]:
    """Tell of each device; one whose contents wait in host memory works, and slower."""
    for device_id in manager.devices.ids():
        info = manager.devices.info(device_id)
        health = _HEALTH[info.state]
        if info.displaced and health is HealthState.OK:
            health = HealthState.DEGRADED
        yield PartHealth(f"device:{device_id}", health, info.state_reason)
