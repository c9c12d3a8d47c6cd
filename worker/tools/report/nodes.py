"""A fleet's record on a page: nodes in a table, the tightest first, and charts of the tightest devices alone."""

from collections.abc import Iterable, Mapping
from html import escape

from worker.tools.nodes import by_node, node_of, tightness
from worker.tools.report.samples import RANK, DeviceSamples
from worker.tools.report.words import UNKNOWN, mebibytes

DRAWN_MOST = 24
"""Charts of a fleet: more are not looked at, and each brings thousands of samples with it."""
OWNERS_MOST = 500
_NODES_OPEN = 20
"""Nodes that are listed at once; the others unfold."""


def is_fleet(device_ids: Iterable[str]) -> bool:
    """Tell whether devices are those of nodes."""
    return any(node_of(device_id) is not None for device_id in device_ids)


def in_order(devices: Mapping[str, DeviceSamples]) -> list[str]:
    """Return the devices as they are shown: a fleet's by node, the tightest first, others as they were found."""
    if not is_fleet(devices):
        return list(devices)
    return [device_id for group in _groups(devices) for device_id in group]


def drawn_devices(devices: Mapping[str, DeviceSamples]) -> list[str]:
    """Return the devices that have charts: all, of a fleet the tightest."""
    if not is_fleet(devices):
        return list(devices)
    tightest = sorted(devices, key=lambda device_id: _tight(devices[device_id]), reverse=True)[:DRAWN_MOST]
    return in_order({device_id: devices[device_id] for device_id in tightest})


def nodes_section(devices: Mapping[str, DeviceSamples]) -> str:
    """Write the table of nodes: how tight each was at its tightest, and on which device."""
    rows = [_row(devices, group) for group in _groups(devices)]
    heads = (
        "node",
        "devices",
        "worst level",
        "tightest device",
        "in use at most",
        "allocated at most",
        "of budget",
    )
    head = "".join(f'<th scope="col">{each}</th>' for each in heads)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows[:_NODES_OPEN])}</tbody></table>"
    rest = ""
    if rows[_NODES_OPEN:]:
        said = f"<summary>the other {len(rows) - _NODES_OPEN:,} nodes</summary>"
        more = "".join(rows[_NODES_OPEN:])
        rest = f"<details>{said}<table><thead><tr>{head}</tr></thead><tbody>{more}</tbody></table></details>"
    return f'<section class="nodes"><h2>{len(rows):,} nodes, the tightest first</h2>{table}{rest}</section>'


def _row(devices: Mapping[str, DeviceSamples], group: list[str]) -> str:
    device = devices[group[0]]
    node, _, name = group[0].partition("/")
    level = _worst(device)
    share = _share(device)
    peak = max((sample["peak_bytes"] or 0 for sample in device.samples), default=0)
    budget = device.last.get("budget_bytes")
    cells = (
        escape(node if name else ""),
        f"{len(group):,}",
        f'<span class="level {level}">{level}</span>',
        escape(name or group[0]),
        UNKNOWN if share is None else f"{share:.0f} %",
        mebibytes(peak),
        mebibytes(budget) if type(budget) is int else UNKNOWN,
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _groups(devices: Mapping[str, DeviceSamples]) -> list[list[str]]:
    return by_node(devices, node_of, lambda device_id: _tight(devices[device_id]))


def _tight(device: DeviceSamples) -> tuple[bool, int, float]:
    return tightness(_worst(device), _share(device))


def _worst(device: DeviceSamples) -> str:
    return max((level for _, level in device.levels), key=RANK.index, default="unknown")


def _share(device: DeviceSamples) -> float | None:
    """Return the most of its budget that was in use, in percent; None where that was never known."""
    shares = [
        100 * (1 - sample["available_bytes"] / sample["budget_bytes"])
        for sample in device.samples
        if sample["available_bytes"] is not None and sample["budget_bytes"]
    ]
    return max(0.0, *shares) if shares else None
