"""The machines that nodes are on, and the start of a node on each that has none."""

from collections.abc import Callable
from typing import Any

from worker.fleet.cluster import Cluster, Machine


class Machines:
    """What is known of them. Not thread-safe: its owner locks, but for ``without_node`` and ``start``, which ask Ray."""

    def __init__(
        self, cluster: Cluster, found: Callable[[], dict[str, Machine]], options: tuple[str, ...]
    ) -> None:
        """``found`` returns those that there are, by the names of their nodes; ``options`` are for every node's worker."""
        self.cluster = cluster
        self._found = found
        self._options = options
        # All mutable state: of each node that was started, its machine.
        self._of: dict[str, Machine] = {}

    @property
    def own(self) -> str:
        """The name of the node on the gateway's own."""
        own = self.cluster.own_ray_id
        return next(name for name, each in self._found().items() if each.ray_id == own)

    def is_here(self, node_id: str) -> bool:
        """Tell whether a node is on the gateway's own machine."""
        machine = self._of.get(node_id)
        return machine is not None and machine.folder is not None

    def without_node(self) -> dict[str, Machine]:
        """Return those on which none was started, or where it ended since; also one that came back."""
        return {name: machine for name, machine in self._found().items() if self._of.get(name) != machine}

    def start(self, machine: Machine) -> Any:
        """Start a node there, unless it is there. Returns what Ray reaches it by."""
        return self.cluster.node(machine, self._options)

    def started(self, node_id: str, machine: Machine) -> None:
        """Note that a node was started."""
        self._of[node_id] = machine

    def lost(self, node_id: str, *, with_process: bool) -> None:
        """Note that a node is lost: where Ray does not start its process again, another is started."""
        machine = self._of.pop(node_id, None)
        if machine is not None and with_process:
            self.cluster.missed(machine)
