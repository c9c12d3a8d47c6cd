"""Names across nodes: ``node-1/cuda:0`` outside, ``cuda:0`` on the node. Ids that a node's worker made go by the same rule."""

import re
from collections.abc import Iterable
from typing import Any

SEPARATOR = "/"
"""Between a node and what is on it. No device's id has one, and none that a worker makes."""
ALL = "all"

_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_IDS = frozenset({
    "device_id", "source_device_id", "destination_device_id", "shared_with", "allocation_id", "source_allocation_id",
    "destination_allocation_id", "transfer_id", "plan_id", "operation_id",
})  # fmt: skip
"""Keys whose values name something on a node, wherever they are in what its worker says."""
_ID_LISTS = frozenset({"allocation_ids", "known_devices"})
_MADE = re.compile(r"(?:alloc|batches|plan|transfer|operation)-[0-9]+(?:-[0-9a-f]+)?", re.ASCII)
OWN_CONSUMERS = ("model:", "engine:", "pool:", "external:", "server:", "store:")
"""How the ids of consumers begin that workers have themselves: each node has its own of that name."""


def is_node_name(text: str) -> bool:
    """Tell whether a node can be called that: letters, digits, ``.``, ``_`` and ``-``, at most 63; not ``all``."""
    return _NODE.fullmatch(text) is not None and text != ALL


def node_name(text: str) -> str:
    """Make a name for a node out of any text, such as a machine's."""
    made = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:63]
    return made if is_node_name(made) else "node"


def in_order(names: Iterable[str]) -> list[str]:
    """Return names as people count: ``node-2`` before ``node-10``."""
    return sorted(names, key=natural)


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """Return what to sort a name by so that its numbers count as numbers."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(each)) if each.isdecimal() else (1, each) for each in parts if each)


def split(name: str) -> tuple[str | None, str]:
    """Return the node and what is on it; None where no node is named."""
    node, separator, rest = name.partition(SEPARATOR)
    return (node, rest) if separator and is_node_name(node) and rest else (None, name)


def joined(node: str, name: str) -> str:
    """Return a node's device or id as the fleet calls it."""
    return f"{node}{SEPARATOR}{name}"


def outward(node: str, value: Any) -> Any:
    """Return what a worker said as the fleet says it: whatever it names is on that node."""
    if isinstance(value, dict):
        return {key: _outward_of(node, key, each) for key, each in value.items()}
    if isinstance(value, list):
        return [outward(node, each) for each in value]
    return value


def _outward_of(node: str, key: str, value: Any) -> Any:
    if isinstance(value, str):
        if key in _IDS or (key == "id" and _MADE.fullmatch(value)):
            return joined(node, value)
        if key == "consumer_id" and value.startswith(OWN_CONSUMERS):
            return joined(node, value)
        return value
    if key in _ID_LISTS and isinstance(value, list):
        return [joined(node, each) for each in value]
    return outward(node, value)
