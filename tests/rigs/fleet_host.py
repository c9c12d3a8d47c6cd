"""A host of a fleet, which asks for more than it waits for and keeps account of what it was answered."""

import itertools
import os
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.process import Worker, eventually
from tests.rigs.fleet_cluster import START_SECONDS, FleetCluster
from tests.rigs.model_files import write_model

MIB = 2**20
NODES = ("node-1", "node-2", "node-3")
SIMULATED = f"256MiB,bandwidth_bytes_per_second={64 * MIB + os.getpid()}"
"""An option that no other run on this machine has: by it its workers are known."""
WORKER, NODE, DIRECTORY, GATEWAY = "worker", "node", "directory", "gateway"
KILLS = [WORKER] * 26 + [DIRECTORY] * 13 + [NODE] * 7 + [GATEWAY] * 4
PASSING = {"device_unavailable", "allocation_not_found", "model_busy"}
"""What may be answered while something is lost; never a bug, nor nothing."""


def fleet(cluster: FleetCluster, models: Path, *more: str) -> Worker:
    """Start a gateway on the cluster."""
    options = ("fleet", "--address", cluster.address, "--simulated-device", SIMULATED,
               "--models", str(models / "models.yaml"), "--plugin", "tests.rigs.digest_plugin", "--plugin", "tests.rigs.turns_plugin", *more)  # fmt: skip
    return Worker(*options, environment=cluster.environment, patience=START_SECONDS)


def write_models(folder: Path) -> Path:
    """Write two small models into a folder, and a file that configures them, one of them also for the CPU alone."""
    for index, name in enumerate("ab"):
        write_model(folder / f"{name}.safetensors", 8 * MIB, seed=index)
    rows = [f"  - {{id: {name}, path: {name}.safetensors, loader: safetensors}}\n" for name in "ab"]
    rows.append("  - {id: on-cpu, path: a.safetensors, loader: safetensors, device: cpu}\n")
    roles = "roles: {digests: {model: b}}\n"
    (folder / "models.yaml").write_text("models:\n" + "".join(rows) + roles)
    return folder


def allocated(gateway: Worker) -> int:
    """Return how many bytes are allocated on all nodes, by their ledgers."""
    devices = gateway.call("memory.get_status", {"refresh": True})["devices"]
    return sum(each["allocated_bytes"] for each in devices)


def health(gateway: Worker, node: str) -> str:
    """Return how a node is."""
    parts = gateway.call("worker.get_health")["parts"]
    return next(each["state"] for each in parts if each["name"] == f"node:{node}")


def is_degraded(gateway: Worker, node: str) -> bool:
    """Tell whether a node is there, and nothing is placed on it."""
    return health(gateway, node) == "degraded"


def refusal(gateway: Worker) -> dict[str, Any] | None:
    """Return why nothing is placed anywhere; None where it is."""
    reply = gateway.ask("memory.allocate", {"size_bytes": 4096})
    if reply["success"]:
        gateway.call("memory.deallocate", {"allocation_id": reply["data"]["allocation_id"]})
        return None
    return dict(reply["error"])


def node_of(name: str) -> str:
    """Return the node of a device or an id."""
    return name.partition("/")[0]


class FleetHost:
    """Asks for more than it waits for, and keeps account of what it was answered."""

    def __init__(self, cluster: FleetCluster, models: Path, gateways: int) -> None:
        """Start as many gateways as will be had, side by side: most of a start is waiting."""
        self._cluster = cluster
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

    def kill(self, kind: str, chance: random.Random) -> None:
        """Kill one of a kind, if there is one just now. After a gateway another is asked: nodes free what the first one had."""
        if kind == GATEWAY:
            self.gateway.process.kill()
            self.gateway.__exit__()
            self._take_another()
            return
        cluster = self._cluster
        found = cluster.workers() if kind == WORKER else cluster.actors(kind.capitalize())
        if found:
            with suppress(psutil.NoSuchProcess):
                chance.choice(sorted(found.items()))[1].kill()

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
            assert self.gateway.exit_code(START_SECONDS) == 0
        finally:
            for each in (self.gateway, *self._spare):
                each.__exit__()
