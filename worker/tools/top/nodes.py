"""A fleet's devices in few lines: the tightest nodes first, and a line a node where not every device has one."""

from collections import Counter

from protocol.record import Record
from protocol.vocabulary import DeviceState
from worker.tools.nodes import by_node, node_of, tightness
from worker.tools.top.snapshot import DeviceRow

_TOLD = ("lost", "critical", "high", "moderate")
"""What a summary counts, the worst first; the others are in order."""


class Line(Record):
    """A device's line, which stands for those of its node that have none."""

    row: DeviceRow
    label: str
    begins_node: bool


class Arranged(Record):
    """The lines that are shown, and what is not."""

    lines: tuple[Line, ...]
    hidden_nodes: int
    summary: str


def is_fleet(devices: tuple[DeviceRow, ...]) -> bool:
    """Tell whether devices are those of nodes."""
    return any(node_of(row.device_id) is not None for row in devices)


def arranged(devices: tuple[DeviceRow, ...], lines: int) -> Arranged:
    """Divide lines among nodes: every device has one where that fits, else the tightest device of each node."""
    groups = by_node(devices, lambda row: node_of(row.device_id), _tight)
    if len(devices) <= lines:
        shown = [
            Line(row, row.device_id, begins_node=not index)
            for group in groups
            for index, row in enumerate(group)
        ]
        return Arranged(tuple(shown), 0, _summary(groups, devices))
    shown = [
        Line(group[0], f"{group[0].device_id} +{len(group) - 1}" if group[1:] else group[0].device_id, begins_node=True)
        for group in groups[:lines]
    ]  # fmt: skip
    return Arranged(tuple(shown), max(0, len(groups) - lines), _summary(groups, devices))


def _tight(row: DeviceRow) -> tuple[bool, int, float]:
    lost = row.state == DeviceState.LOST
    there = row.state == DeviceState.AVAILABLE
    return tightness(row.level if there else "unknown", row.percentage if there else None, lost=lost)


def _summary(groups: list[list[DeviceRow]], devices: tuple[DeviceRow, ...]) -> str:
    counts = Counter(row.level if row.state == DeviceState.AVAILABLE else row.state for row in devices)
    told = [f"{counts[word]:,} {word}" for word in _TOLD if counts[word]]
    return " · ".join([f"{len(groups):,} nodes, {len(devices):,} devices, the tightest first", *told])
