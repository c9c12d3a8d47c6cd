"""A host of a fleet, which asks for more than it waits for and keeps account of what it was answered."""

import itertools
import os
from pathlib import Path

from tests.e2e.process import Worker, eventually
from tests.rigs.fleet_cluster import START_SECONDS, FleetCluster

MIB = 2**20
NODES = ("node-1", "node-2", "node-3")
SIMULATED = f"256MiB,bandwidth_bytes_per_second={64 * MIB + os.getpid()}"
"""An option that no other run on this machine has: by it its workers are known."""


PASSING = {"device_unavailable", "allocation_not_found", "model_busy"}
"""What may be answered while something is lost; never a bug, nor nothing."""


def fleet(cluster: FleetCluster, models: Path, *more: str) -> Worker:
    """Start a gateway on the cluster."""
    options = ("fleet", "--address", cluster.address, "--simulated-device", SIMULATED,
               "--models", str(models / "models.yaml"), "--plugin", "tests.rigs.digest_plugin", "--plugin", "tests.rigs.turns_plugin", *more)  # fmt: skip
    return Worker(*options, environment=cluster.environment, patience=START_SECONDS)


def allocated(gateway: Worker) -> int:
    """Return how many bytes are allocated on all nodes, by their ledgers."""
    devices = gateway.call("memory.get_status", {"refresh": True})["devices"]
    return sum(each["allocated_bytes"] for each in devices)


def health(gateway: Worker, node: str) -> str:
    """Return how a node is."""
    parts = gateway.call("worker.get_health")["parts"]
    return next(each["state"] for each in parts if each["name"] == f"node:{node}")


class FleetHost:
    """Asks for more than it waits for, and keeps account of what it was answered."""

    def __init__(self, cluster: FleetCluster, models: Path, gateways: int) -> None:
        """Start as many gateways as will be had, side by side: most of a start is waiting."""
        self._spare = [fleet(cluster, models) for _ in range(gateways)]
        self._numbers = itertools.count(1)
        for each in self._spare:
            each.call("worker.subscribe", {"events": ["device.lost"]})
        self._take_another()

    def _take_another(self) -> None:
        self.gateway = self._spare.pop()
        self._asked: list[str] = []

    def ask_for_much(self) -> None:
        """Send a few of all sorts."""
        number = next(self._numbers)
        self._asked += [self.gateway.send("memory.allocate", {"size_bytes": MIB}) for _ in range(2)]
        self._asked += [
            self.gateway.send(
                "memory.allocate", {"size_bytes": MIB, "device_id": f"node-{number % 3 + 1}/cpu"}
            ),
            self.gateway.send("memory.get_status"),
            self.gateway.send("test.digest", {"model_id": "ab"[number % 2]}),
            self.gateway.send("memory.get_allocations", {"limit": 10}),
        ]

    def kill_gateway(self) -> None:
        """Kill it, and ask another: what the first one had is freed by the nodes."""
        self.gateway.process.kill()
        self.gateway.__exit__()
        self._take_another()

    def settle(self) -> None:
        """Wait for all answers, and for all nodes."""
        for each in self._asked:
            reply = self.gateway.reply(each)
            assert reply["success"] or reply["error"]["code"] in PASSING, reply
        eventually(
            lambda: all(health(self.gateway, each) == "ok" for each in NODES), "all nodes", START_SECONDS
        )

    def adds_up(self) -> bool:
        """Tell whether what is live is what was made and not lost, by the list and by the ledgers."""
        replies = [self.gateway.reply(each) for each in self._asked]
        made = {
            each["data"]["allocation_id"]
            for each in replies
            if each["success"] and "allocation_id" in each["data"]
        }
        lost = {
            gone for each in self.gateway.events("device.lost") for gone in each["data"]["allocation_ids"]
        }
        rows = self.gateway.call("memory.get_allocations", {"limit": 10_000})["allocations"]
        live = {each["allocation_id"]: each["size_bytes"] for each in rows}
        return live.keys() == made - lost and allocated(self.gateway) == sum(live.values())

    def close(self) -> None:
        try:
            self.gateway.close_input()
            assert self.gateway.exit_code(20) == 0
        finally:
            for each in (self.gateway, *self._spare):
                each.__exit__()
