"""Devices of a fleet by their nodes: ``node-1/cuda:0`` is a device of ``node-1``."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from protocol.vocabulary import NODE_SEPARATOR, PressureLevel

Row = TypeVar("Row")

_WORST_LAST = (
    PressureLevel.UNKNOWN,
    PressureLevel.LOW,
    PressureLevel.MODERATE,
    PressureLevel.HIGH,
    PressureLevel.CRITICAL,
)


def node_of(device_id: str) -> str | None:
    """Return the node that a device is of; None for a device of a worker that is no fleet."""
    node, separator, _ = device_id.partition(NODE_SEPARATOR)
    return node if separator else None


def tightness(level: str, percentage: float | None, *, lost: bool = False) -> tuple[bool, int, float]:
    """Return what tighter devices have more of: lost before full, then by level, then by the share in use."""
    rank = _WORST_LAST.index(PressureLevel(level)) if level in _WORST_LAST else 0
    return lost, rank, -1.0 if percentage is None else percentage


def by_node(
    rows: Iterable[Row], node: Callable[[Row], str | None], tight: Callable[[Row], Any]
) -> list[list[Row]]:
    """Return the rows of each node, the tightest first, of the node that has the tightest device first.

    Devices of no node are a group of their own. Equals stay in the order in which they came.
    """
    groups: dict[str | None, list[Row]] = {}
    for row in rows:
        groups.setdefault(node(row), []).append(row)
    for group in groups.values():
        group.sort(key=tight, reverse=True)
    return sorted(groups.values(), key=lambda group: tight(group[0]), reverse=True)
