"""A Ray cluster of three nodes on this machine, whose processes can be killed: what fleets are tested on."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import psutil

from tests.e2e.process import ENTRY, ROOT

STORE_BYTES = 80 * 2**20
"""Of each node: what Ray takes at least."""
START_SECONDS = 90.0
"""How long a start may take on a machine that is busy with others."""


class FleetCluster:
    """Three of Ray's nodes, ``node-1`` to ``node-3``, with a token of its own, in a process of their own.

    Ray reads its settings when it is imported, which some other test may have done before.
    """

    def __init__(self) -> None:
        paths = (str(ENTRY), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")]))
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0" * 64,
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": os.pathsep.join(paths),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.rigs.fleet_cluster"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **self.environment},
        )
        self.address = self._answer()

    def add(self, name: str) -> None:
        """Start a node, as ``ray start`` does on another machine."""
        self._ask("add", name)

    def kill(self, name: str) -> None:
        """Kill a node's processes, Ray's own and all that they started."""
        self._ask("kill", name)

    def actors(self, kind: str) -> dict[str, psutil.Process]:
        """Return the processes of a kind of actor, ``Node`` or ``Directory``, by the node that they are on."""
        found = {}
        for each in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if " ".join(each.cmdline()).startswith(f"ray::{kind}"):
                    for word in each.parent().cmdline():
                        if word.startswith("--node-name="):
                            found[word.partition("=")[2]] = each
        return found

    def workers(self) -> dict[str, psutil.Process]:
        """Return the workers by their node."""
        found = {}
        for name, actor in self.actors("Node").items():
            with suppress(psutil.Error):
                found.update((name, each) for each in actor.children() if "memory_worker" in each.cmdline())
        return found

    def refusal(self, name: str) -> str:
        """Return why a node does not carry out what was placed there by a revision that it never had."""
        return self._ask("refusal", name)

    def close(self) -> None:
        """End all of it."""
        self._ask("close", "")
        self._process.communicate(timeout=START_SECONDS)

    def _ask(self, *words: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the cluster's process ended"
        return str(json.loads(line))


def _serve() -> None:
    """Start the cluster, and do what lines of stdin say."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(text: str) -> None:
        out.write(json.dumps(text) + "\n")
        out.flush()

    import ray
    from ray.cluster_utils import Cluster

    head = {**_arguments("node-1"), "no_monitor": True, "include_log_monitor": False}
    cluster = _patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    nodes = {"node-1": cluster.head_node}
    for name in ("node-2", "node-3"):
        nodes[name] = _patiently(partial(cluster.add_node, wait=False, **_arguments(name)))
    cluster.wait_for_nodes(START_SECONDS)
    answer(cluster.address)
    for line in sys.stdin:
        word, name = json.loads(line)
        if word == "add":
            nodes[name] = cluster.add_node(**_arguments(name))
        elif word == "kill":
            cluster.remove_node(nodes.pop(name), allow_graceful=False)
        elif word == "refusal":
            answer(_refusal(cluster.address, name))
            continue
        else:
            ray.shutdown()
            cluster.shutdown()
        answer("done")


def _refusal(address: str, name: str) -> str:
    """Ask a node, as a gateway does, to carry out what was placed by a revision that it never had."""
    import ray

    from worker.fleet.words import NAMESPACE, NODE_PREFIX, Asked, Guard, Place, packed, unpacked

    if not ray.is_initialized():
        ray.init(address, namespace=NAMESPACE, log_to_driver=False)
    until = time.monotonic() + START_SECONDS
    while True:  # one that was killed is in the list until Ray misses it
        for row in ray.nodes():
            with suppress(ray.exceptions.RayError, ValueError):
                if row["NodeName"] == name and row["Alive"]:
                    node = ray.get_actor(f"{NODE_PREFIX}{name}:{row['NodeID'][:16]}", NAMESPACE)
                    guard, place = Guard("", -1), Place("probe", "probe", 0)
                    asked = packed(Asked(place, "probe", guard, "memory.get_status", {}, {}))
                    return str(unpacked(ray.get(node.call.remote(asked), timeout=5)).refused)
        assert time.monotonic() < until, f"{name} does not answer"
        time.sleep(0.1)


def _patiently(start: Callable[[], Any]) -> Any:
    """Start again what took longer than the half minute for which Ray waits, on a machine that is busy with others."""
    for _ in range(2):
        with suppress(Exception):
            return start()
    return start()


def _arguments(name: str) -> dict[str, Any]:
    return {
        "num_cpus": 1, "node_name": name, "include_dashboard": False, "object_store_memory": STORE_BYTES,
        "dashboard_agent_listen_port": 0,
    }  # fmt: skip


def orphans(option: str) -> list[psutil.Process]:
    """Return workers with an option that are still there although their node is gone."""
    found = []
    for each in psutil.process_iter(["cmdline", "ppid"]):
        words = each.info["cmdline"] or []
        if option in words and "fleet" not in words and each.info["ppid"] == 1:
            found.append(each)
    return found


if __name__ == "__main__":
    _serve()
