"""What a host is told of a fleet regularly: every device's figures, and what would help on each node."""

from dataclasses import fields, replace
from typing import Any, Self

from protocol.results import DeviceFigures
from protocol.vocabulary import EventName
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS, Clock
from worker.core.events import Event
from worker.core.records import no_report
from worker.fleet.asked import Data, How
from worker.fleet.channel import Channel
from worker.fleet.everywhere import Everywhere
from worker.stream.work import Call

_HOW = How({})
_OF_PRESSURE = ("pressure_level", "pressure_percentage", "trend")


class FleetFigures(Event):
    """Figures as the nodes answered them."""

    data: Data
    skipped: int = 0

    def merged_with(self, later: Self) -> Self:
        """Return the later ones, which say how many they stand for."""
        return replace(later, skipped=self.skipped + 1)


def tell_figures(everywhere: Everywhere, clock: Clock, started_ns: int, channel: Channel) -> bool:
    """Ask all nodes, and tell the host."""
    call = Call(CancelToken(clock.now_ns), no_report)
    asked = ("memory.get_status", "memory.get_pressure", "memory.get_optimization_recommendations")
    runs = [everywhere.begin(name, {}, _HOW) for name in asked]  # all on their way before one is waited for
    status, pressure, recommended = (run(call) for run in runs)
    pressures = {row["device_id"]: row for row in pressure["devices"]}
    channel.publish_newest(
        FleetFigures(
            {
                "uptime_ms": (clock.now_ns() - started_ns) // NS_PER_MS,
                "pressure_level": status["pressure_level"],
                "devices": [_row(row, pressures.get(row["device_id"], {})) for row in status["devices"]],
                "recommendations": recommended["recommendations"],
            }
        ),
        _on_wire,
    )
    return True


def _row(status: Data, pressure: Data) -> Data:
    """Return a device's figures; where a node answered only one of both questions, what is known."""
    return {
        each.name: pressure.get(each.name, status.get(each.name))
        if each.name in _OF_PRESSURE
        else status.get(each.name)
        for each in fields(DeviceFigures)
    }


def _on_wire(event: Event) -> tuple[str, Any]:
    told: Any = event  # the only ones that are sent by this
    return EventName.FIGURES, told.data | {"skipped": told.skipped}
