"""What room of about one size costs, node by node, worked out for those nodes alone that a decision comes to. Pure."""

from collections.abc import Iterable
from math import inf, log2

from protocol.vocabulary import DeviceState
from worker.fleet.known import KnownNode
from worker.fleet.pricing import SURELY
from worker.fleet.views import DeviceView

_SIZES_PER_OCTAVE = 4


def bucket_of(size_bytes: int) -> int:
    """Return by which number sizes go that are about the same."""
    return int(_SIZES_PER_OCTAVE * log2(size_bytes)) if size_bytes > 0 else -1


class Rooms:
    """The least that room on some devices, none for a node's own choice, costs for sizes of one bucket.

    It is 0 for a node until it is worked out, and again once the node changed.
    """

    def __init__(self, ring: list[KnownNode], devices: tuple[str, ...], bucket: int) -> None:
        """Take the nodes, which their owner changes: each change is to be told here."""
        self._ring, self._devices, self._bucket = ring, devices, bucket
        # All mutable state; which nodes are not worked out goes by their ids, because their places on the ring change.
        self.floors = [0.0] * len(ring)
        """In milliseconds, in the order of the ring."""
        self._stale = {each.node_id for each in ring}

    def insert(self, index: int, node_id: str) -> None:
        """Take a node that is on the ring now."""
        self.floors.insert(index, 0.0)
        self._stale.add(node_id)

    def changed(self, index: int, node_id: str) -> None:
        """Note that a node is not as it was."""
        self.floors[index] = 0.0
        self._stale.add(node_id)

    def remove(self, index: int, node_id: str) -> None:
        """Forget a node that is not on the ring any more."""
        del self.floors[index]
        self._stale.discard(node_id)

    def late(self, index: int) -> float:
        """Work a node out. Returns by how much its floor is higher now."""
        node = self._ring[index]
        if node.node_id not in self._stale:
            return 0.0
        self._stale.discard(node.node_id)
        floor = self.floors[index] = room_floor(node, self._devices, self._bucket)
        return floor


def room_floor(node: KnownNode, devices: tuple[str, ...], bucket: int) -> float:
    """Return the least that room of a bucket costs on a node; infinite where there is none."""
    size = int(2 ** (bucket / _SIZES_PER_OCTAVE) * SURELY) if bucket >= 0 else 0
    floor = inf
    for device in _main(node, devices or node.order):
        missing = 0 if device.available_bytes is None else size - device.available_bytes
        cost = node.curve(device).cost_ms(missing) if missing > 0 else 0.0
        floor = floor if cost is None else min(floor, cost)
    return floor


def _main(node: KnownNode, names: Iterable[str]) -> list[DeviceView]:
    """Return the devices where room may be made: those of the first one's kind."""
    there = [node.devices[each] for each in names if each in node.devices]
    there = [each for each in there if each.state is DeviceState.AVAILABLE]
    return [each for each in there if each.kind is there[0].kind]
