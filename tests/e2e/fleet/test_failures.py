"""A fleet on Ray of which parts are killed, or hang: three nodes with real workers."""

import random
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.process import Worker, eventually
from tests.rigs.fleet_cluster import START_SECONDS, FleetCluster, orphans
from tests.rigs.fleet_host import (
    GATEWAY,
    KILLS,
    MIB,
    NODES,
    SIMULATED,
    FleetHost,
    allocated,
    health,
    is_degraded,
    node_of,
    refusal,
)

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")


def test_a_lost_node_is_answered_for(cluster: FleetCluster, gateway: Worker) -> None:
    """Its allocations are named as lost, and refused as such; reads go on, models go elsewhere; it comes back empty."""
    made = gateway.call("memory.allocate", {"size_bytes": MIB, "device_id": "node-3/cpu"})
    gateway.call("memory.load_model", {"model_id": "a", "device_id": "node-3/sim:0"})
    lost, back = len(gateway.events("device.lost")), len(gateway.events("device.recovered"))
    cluster.actors("Node")["node-3"].kill()
    eventually(lambda: len(gateway.events("device.lost")) >= lost + 2, "the loss", START_SECONDS)
    told = {each["data"]["device_id"]: each["data"] for each in gateway.events("device.lost")[lost:]}
    assert told["node-3/cpu"]["allocation_ids"] == [made["allocation_id"]]
    assert told["node-3/sim:0"]["model_ids"] == ["a"]
    states = {each["device_id"]: each["state"] for each in gateway.call("memory.get_status")["devices"]}
    assert states["node-1/cpu"] == "available"
    assert len(states) == 6
    refused = gateway.refused("memory.deallocate", {"allocation_id": made["allocation_id"]})
    assert (refused["code"], refused["details"]["reason"]) == ("allocation_not_found", "device_lost")
    assert gateway.call("test.digest", {"model_id": "a"})["model_id"] == "a"
    eventually(lambda: len(gateway.events("device.recovered")) >= back + 2, "node-3 is back", START_SECONDS)
    assert (
        gateway.call("memory.get_status", {"device_id": "node-3/cpu"})["devices"][0]["allocated_bytes"] == 0
    )


def test_a_worker_that_dies_was_away_until_the_next_one_answers(
    cluster: FleetCluster, gateway: Worker
) -> None:
    """What it had is named as lost, and for how long there was none is told."""
    made = gateway.call("memory.allocate", {"size_bytes": MIB, "device_id": "node-2/cpu"})
    lost, back = len(gateway.events("device.lost")), len(gateway.events("device.recovered"))
    cluster.workers()["node-2"].kill()
    eventually(lambda: len(gateway.events("device.recovered")) >= back + 2, "node-2 is back", START_SECONDS)
    gone_with_it = [each["data"]["allocation_ids"] for each in gateway.events("device.lost")[lost:]]
    assert gone_with_it == [[made["allocation_id"]], []]
    away = [each["data"]["lost_ms"] for each in gateway.events("device.recovered")[back:]]
    assert min(away) > 20  # no Python starts faster


def test_a_machine_goes_and_comes_back(cluster: FleetCluster, gateway: Worker) -> None:
    """Its devices are lost, and nothing is placed there; once Ray is started on it again, it takes part again."""
    lost, back = len(gateway.events("device.lost")), len(gateway.events("device.recovered"))
    cluster.kill("node-3")
    eventually(lambda: len(gateway.events("device.lost")) >= lost + 2, "the loss", START_SECONDS)
    placed = {node_of(gateway.call("memory.allocate", {"size_bytes": MIB})["device_id"]) for _ in range(6)}
    assert "node-3" not in placed
    states = {each["device_id"]: each["state"] for each in gateway.call("memory.get_status")["devices"]}
    assert (states["node-3/cpu"], states["node-2/cpu"]) == ("lost", "available")
    cluster.add("node-3")
    eventually(lambda: len(gateway.events("device.recovered")) >= back + 2, "node-3 is back", START_SECONDS)
    eventually(lambda: health(gateway, "node-3") == "ok", "node-3 has a lease", START_SECONDS)


def test_nodes_that_hang_hold_up_nobody_else(cluster: FleetCluster, gateway: Worker) -> None:
    """What is asked of one is refused by its name, what is placed goes elsewhere, and a status has its last figures with their age.

    One's actor is stopped, the other's worker. Once they go on they are used again; what was given up there is taken back.
    """
    held = gateway.call("memory.allocate", {"size_bytes": MIB, "device_id": "node-3/cpu"})
    before = {each["device_id"]: each for each in gateway.call("memory.get_status")["devices"]}
    lost, names = len(gateway.events("device.lost")), ("node-2", "node-3")
    stopped = (cluster.actors("Node")["node-2"], cluster.workers()["node-3"])
    try:
        for each in stopped:
            each.suspend()
        there = [{"size_bytes": MIB, "device_id": f"{each}/cpu"} for each in names]
        named = [gateway.send("memory.allocate", each) for each in there]
        hurried = gateway.send("memory.allocate", there[1], meta={"deadline_ms": 100})
        placed = [gateway.send("memory.allocate", {"size_bytes": MIB}) for _ in range(6)]
        in_time = eventually(
            lambda: gateway.ask("memory.get_status", meta={"deadline_ms": 1000}).get("data"),
            "an answer in time: a busy machine is late with it at times",
        )["devices"]
        assert [each["state"] for each in in_time if each["device_id"].endswith("/cpu")] == [
            "available", "unavailable", "unavailable",
        ]  # fmt: skip
        ended = gateway.reply(hurried)["error"]
        assert (ended["code"], ended["details"]["node"]) == ("deadline_exceeded", "node-3")
        assert {node_of(gateway.reply(each)["data"]["device_id"]) for each in placed} == {"node-1"}
        for name, each in zip(names, named, strict=True):
            refused = gateway.reply(each)["error"]
            assert (refused["code"], refused["executed"]) == ("device_unavailable", "no")
            assert refused["message"].startswith(f"{name} has answered nothing for")
            assert health(gateway, name) == "degraded"
        rows = {each["device_id"]: each for each in gateway.call("memory.get_status")["devices"]}
        assert rows["node-1/cpu"]["state"] == "available"
        hanging = rows["node-3/cpu"]
        assert (hanging["state"], hanging["allocated_bytes"]) == ("unavailable", MIB)
        assert hanging["available_bytes"] == before["node-3/cpu"]["available_bytes"]
        assert hanging["age_ms"] > 5000
        assert gateway.refused("fleet.drain", {"node": "node-3"})["code"] == "device_unavailable"
        assert gateway.call("memory.clear", {"clear_type": "cache"})["kept"] == []
    finally:
        for each in stopped:
            each.resume()
    for name in names:
        eventually(lambda name=name: health(gateway, name) == "ok", f"{name} answers", START_SECONDS)
    eventually(lambda: allocated(gateway) == 7 * MIB, "what was given up is taken back", START_SECONDS)
    gateway.call("memory.deallocate", {"allocation_id": held["allocation_id"]})
    assert len(gateway.events("device.lost")) == lost


def test_nothing_is_placed_without_the_directory(cluster: FleetCluster, gateway: Worker) -> None:
    """Once every node's lease with it ended, what names no device is refused; the rest goes on, and so does that later.

    By the time that a gateway takes a node for gone, and would place its models elsewhere, the node itself admits nothing
    that is placed: who placed there before did so within that lease.
    """
    for each in NODES:  # a test before may have taken the directory away
        eventually(
            lambda node=each: cluster.refusal(node).startswith("revision -1 is past"),
            "its lease",
            START_SECONDS,
        )
    found = cluster.actors("Directory").popitem()[1]
    found.suspend()
    try:
        for each in NODES:
            eventually(partial(is_degraded, gateway, each), "the end of its lease", START_SECONDS)
            assert "reached the directory" in cluster.refusal(each)
        refused = eventually(lambda: refusal(gateway), "the leases' end", START_SECONDS)
        named = gateway.call("memory.allocate", {"size_bytes": MIB, "device_id": "node-2/cpu"})
        assert gateway.call("memory.get_status")["devices"]
    finally:
        found.resume()
    assert (refused["code"], refused["executed"], refused["retryable"]) == ("device_unavailable", "no", True)
    gateway.call("memory.deallocate", {"allocation_id": named["allocation_id"]})
    eventually(lambda: refusal(gateway) is None, "placing again", START_SECONDS)


def test_whatever_is_killed_every_request_is_answered(cluster: FleetCluster, models: Path) -> None:
    """Fifty kills at random moments: a living gateway answers everything, and the ledgers add up to what it said."""
    chance = random.Random(17)
    kinds = chance.sample(KILLS, len(KILLS))
    host = FleetHost(cluster, models, 1 + kinds.count(GATEWAY))
    try:
        for kind in kinds:
            host.ask_for_much()
            time.sleep(chance.uniform(0, 0.1))
            host.kill(kind, chance)
        host.settle()
        eventually(host.adds_up, "the ledgers add up to what is live", START_SECONDS)
        eventually(lambda: not orphans(SIMULATED), "the end of workers whose node is gone")
    finally:
        host.close()
