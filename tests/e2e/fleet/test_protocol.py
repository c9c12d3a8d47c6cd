"""A fleet on Ray: three nodes with real workers, one gateway, the same protocol."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.process import ROOT, Worker, eventually
from tests.rigs.fleet_cluster import START_SECONDS, FleetCluster
from tests.rigs.fleet_host import MIB, NODES, SIMULATED, allocated, fleet, health, node_of
from worker.tools.attached import AttachedWorker, SourceError

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")


@pytest.mark.usefixtures("gateway")
def test_a_host_needs_no_change(cluster: FleetCluster, models: Path) -> None:
    """The walk through the protocol goes as with one worker: the same answers have data, the same are refused and why."""
    lines = [json.loads(each) for each in (ROOT / "examples" / "conversation.jsonl").read_text().splitlines()]
    others = {"worker.shutdown", "worker.subscribe", "memory.reload_models", "fleet.drain"}
    lines = [each for each in lines if each["action"] not in others]
    with (
        Worker("--simulated-device", SIMULATED) as lone,
        fleet(cluster, models) as fresh,
    ):  # it counts its ids
        for each in lines:
            asked = {"meta": each.get("meta")} if "meta" in each else {}
            one, many = (host.ask(each["action"], each.get("data"), **asked) for host in (lone, fresh))
            told = f"{each['request_id']}: {many}"
            assert many["success"] == one["success"], told
            if one["success"]:
                assert many["data"].keys() == one["data"].keys(), told
            else:
                assert many["error"]["code"] == one["error"]["code"], told


def test_devices_and_ids_name_their_node(gateway: Worker) -> None:
    """What is placed says where; whatever an answer names can be sent back as it stands."""
    devices = [each["device_id"] for each in gateway.call("memory.get_status")["devices"]]
    assert devices == [f"node-{number}/{device}" for number in (1, 2, 3) for device in ("cpu", "sim:0")]
    named = gateway.call(
        "memory.allocate", {"size_bytes": MIB, "device_id": "node-3/sim:0", "lease_ms": 60_000}
    )
    bare = gateway.call("memory.allocate", {"size_bytes": MIB, "device_id": "cpu"})
    placed = [gateway.call("memory.allocate", {"size_bytes": MIB}) for _ in range(12)]
    assert (named["device_id"], bare["device_id"]) == ("node-3/sim:0", "node-1/cpu")
    assert len({node_of(each["device_id"]) for each in placed}) > 1
    assert all(each["allocation_id"].startswith(node_of(each["device_id"]) + "/") for each in placed)
    gateway.call("memory.renew_lease", {"allocation_id": named["allocation_id"], "lease_ms": 1_000_000})
    assert (
        gateway.call("memory.get_allocations", {"allocation_id": named["allocation_id"]})["allocations"][0][
            "device_id"
        ]
        == "node-3/sim:0"
    )
    listed, after = [], None
    while True:
        page = gateway.call("memory.get_allocations", {"limit": 3, "after": after})
        listed += [each["allocation_id"] for each in page["allocations"]]
        if (after := page["next"]) is None:
            break
    assert sorted(listed) == sorted(each["allocation_id"] for each in (named, bare, *placed))
    for each in (named, bare, *placed):
        assert (
            gateway.call("memory.deallocate", {"allocation_id": each["allocation_id"]})["freed_bytes"] == MIB
        )
    assert allocated(gateway) == 0
    assert gateway.refused("memory.get_status", {"device_id": "node-9/cpu"})["code"] == "device_not_found"
    assert (
        gateway.refused("memory.deallocate", {"allocation_id": named["allocation_id"]})["code"]
        == "allocation_not_found"
    )


def test_a_status_comes_in_pages(gateway: Worker) -> None:
    """Pages together are the whole, in the same order."""
    whole = [each["device_id"] for each in gateway.call("memory.get_status")["devices"]]
    first = gateway.call("memory.get_status", {"limit": 4})
    second = gateway.call("memory.get_status", {"limit": 4, "after": first["next"]})
    assert [each["device_id"] for each in (*first["devices"], *second["devices"])] == whole
    assert second["next"] is None


def test_what_all_nodes_answer_is_one_answer(gateway: Worker) -> None:
    """Pressure, metrics, consumers and health are of all nodes, and say whose each part is."""
    assert len(gateway.call("memory.get_pressure")["devices"]) == 6
    text = gateway.call("memory.get_metrics")["text"]
    assert all(f'node="node-{number}"' in text for number in (1, 2, 3))
    assert text.count("# EOF") == 1
    names = {each["name"] for each in gateway.call("worker.get_health")["parts"]}
    assert {"requests", "node:node-2", "node-3/device:sim:0"} <= names
    ids = [each["consumer_id"] for each in gateway.call("memory.get_consumers")["consumers"]]
    assert len(ids) == len(set(ids))


def test_a_model_is_used_where_it_is_loaded(gateway: Worker) -> None:
    """A plugin's action that names a model runs on the model's node; unloading finds it there."""
    there = gateway.call("memory.load_model", {"model_id": "a", "device_id": "node-3/cpu"})
    assert there["device_id"] == "node-3/cpu"
    digests = gateway.call("test.digest", {"model_id": "a"})["tensors"]
    assert digests.keys() == {"layer.0"}
    row = gateway.call("memory.get_model_status", {"model_id": "a"})["models"]
    assert [(each["device_id"], each["use_count"]) for each in row] == [
        ("node-3/cpu", there["use_count"] + 1)
    ]
    again = gateway.call("memory.load_model", {"model_id": "a"})
    assert (again["device_id"], again["load_count"]) == ("node-3/cpu", there["load_count"])
    assert gateway.call("memory.unload_model", {"model_id": "a"})["freed_bytes"] >= 8 * MIB
    states = [each["state"] for each in gateway.call("memory.get_model_status", {"model_id": "a"})["models"]]
    assert states == ["unloaded"]


def test_a_model_is_loaded_on_the_device_that_it_is_declared_for(gateway: Worker) -> None:
    """Placement chooses the node; the declaration says where on it, as it does for an engine's model."""
    loaded = gateway.call("memory.load_model", {"model_id": "on-cpu"})
    assert loaded["device_id"].endswith("/cpu")
    gateway.call("memory.unload_model", {"model_id": "on-cpu"})


def test_what_a_node_answered_is_known_at_once(gateway: Worker) -> None:
    """No view of a node has to come first: not of a load on a device that was named, nor of what was unloaded or cleared."""
    for turn in range(9):
        node = NODES[turn % 3]
        loaded = gateway.call("memory.load_model", {"model_id": "a", "device_id": f"{node}/cpu"})
        gateway.call("test.digest", {"model_id": "a"})
        again = gateway.call("memory.load_model", {"model_id": "a"})
        assert (again["device_id"], again["load_count"]) == (f"{node}/cpu", loaded["load_count"])
        assert again["use_count"] == loaded["use_count"] + 2  # by the digest, and by this
        if turn % 2:
            gateway.call("memory.unload_model", {"model_id": "a"})
        else:
            gateway.call("memory.clear", {"clear_type": "models"})


def test_what_is_to_be_freed_is_counted_on(gateway: Worker) -> None:
    """Requests in a row mean what they mean to one worker: nobody has to wait for a free before the next allocation."""
    asked = {"size_bytes": 150 * MIB, "initialize": "none"}
    made = [gateway.call("memory.allocate", asked)["allocation_id"] for _ in NODES]  # each has 256 MiB
    assert {node_of(each) for each in made} == set(NODES)
    assert len(gateway.refused("memory.allocate", asked)["details"]["passed_over"]) == 3
    for _ in range(3):
        oldest = made.pop(0)
        freed = gateway.send("memory.deallocate", {"allocation_id": oldest})
        made.append(gateway.call("memory.allocate", asked)["allocation_id"])
        assert gateway.reply(freed)["success"]
        assert node_of(made[-1]) == node_of(oldest)


def test_a_role_is_used_where_the_model_is_that_it_stands_for(gateway: Worker) -> None:
    """Nodes tell what else their models are called: no one is asked."""
    gateway.call("memory.load_model", {"model_id": "b", "device_id": "node-3/cpu"})
    assert gateway.call("test.digest", {"model_id": "digests"})["model_id"] == "b"
    loaded = gateway.call("memory.load_model", {"model_id": "digests"})
    assert (loaded["model_id"], loaded["device_id"]) == ("b", "node-3/cpu")
    way = gateway.call("memory.plan", {"candidates": [{"name": "one", "model_id": "digests"}]})
    assert node_of(way["candidates"][0]["device_id"]) == "node-3"
    assert gateway.call("memory.unload_model", {"model_id": "digests"})["model_id"] == "b"
    assert gateway.refused("test.digest", {"model_id": "none"})["code"] == "model_not_found"
    assert gateway.refused("memory.load_model", {"model_id": "none"})["code"] == "model_not_found"


def test_a_live_view_shows_every_node(gateway: Worker, socket: Path) -> None:
    """As of one worker: devices by node, and questions alone are answered."""
    gateway.call("memory.load_model", {"model_id": "a", "device_id": "node-2/cpu"})
    command = [sys.executable, "-m", "memory_worker", "top", "--once", "--attach", str(socket)]
    shown = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=START_SECONDS
    )
    assert all(f"node-{number}" in shown.stdout for number in (1, 2, 3)), shown.stdout
    assert "a node-2/cpu" in shown.stdout, shown.stdout
    view = AttachedWorker(socket)
    try:
        assert len(view.ask("memory.get_status")["devices"]) == 6
        with pytest.raises(SourceError, match="live view"):
            view.ask("memory.clear", {"clear_type": "all"})
    finally:
        view.close()


def test_a_crowded_model_is_loaded_on_a_second_node(gateway: Worker) -> None:
    """Nobody says that calls wait for one another: the node finds it by how long they take, and the next crowd is shared."""

    def crowd() -> set[int]:
        asked = [gateway.send("test.take_turns", {"model_id": "a", "work_ms": 50}) for _ in range(8)]
        return {gateway.reply(each)["data"]["pid"] for each in asked}

    gateway.call("memory.load_model", {"model_id": "a", "device_id": "node-2/cpu"})
    eventually(lambda: len(crowd()) > 1, "a crowd that is worked on by two nodes", START_SECONDS)
    rows = gateway.call("memory.get_model_status", {"model_id": "a"})["models"]
    assert len({node_of(each["device_id"]) for each in rows}) > 1
    assert {each["state"] for each in rows} == {"loaded"}


def test_contents_go_from_node_to_node(gateway: Worker, models: Path) -> None:
    """A copy is verified where it arrived, a move leaves nothing behind, a cancelled one leaves all as it was."""
    made = gateway.call(
        "memory.allocate", {"size_bytes": 20 * MIB + 5, "device_id": "node-2/cpu", "owner": "kv"}
    )
    asked = {"source_allocation_id": made["allocation_id"], "destination_device_id": "node-3/sim:0"}
    request = gateway.send("memory.transfer", {**asked, "verify": True}, meta={"progress": True})
    copied = gateway.reply(request)["data"]
    assert (copied["state"], copied["destination_device_id"]) == ("completed", "node-3/sim:0")
    assert copied["checksum"].startswith("sha256:")
    assert gateway.events("progress", request)
    assert allocated(gateway) == 2 * made["size_bytes"]
    moved = gateway.call("memory.transfer", {**asked, "transfer_type": "move", "wait": False})
    eventually(
        lambda: gateway.call("memory.get_transfer", {"transfer_id": moved["transfer_id"]})["state"] == "completed",
        "the move", START_SECONDS,
    )  # fmt: skip
    rows = gateway.call("memory.get_allocations")["allocations"]
    assert [(each["device_id"], each["owner"]) for each in rows] == [("node-3/sim:0", "kv")] * 2
    back = {"source_allocation_id": rows[0]["allocation_id"], "destination_device_id": "node-1/sim:0"}
    request = gateway.send("memory.transfer", back)
    gateway.call("worker.cancel", {"request_id": request})
    ended = gateway.reply(request)
    if not ended["success"]:
        assert ended["error"]["code"] == "cancelled"
        eventually(
            lambda: allocated(gateway) == 2 * made["size_bytes"], "the end of what it made", START_SECONDS
        )
    refused = gateway.refused("memory.transfer", {**back, "destination_device_id": "node-9/cpu"})
    assert refused["code"] == "device_not_found"


def test_a_node_is_drained(cluster: FleetCluster, gateway: Worker) -> None:
    """What the host has there goes to others with its lease, models too; nothing is placed there any more."""
    kept = gateway.call(
        "memory.allocate", {"size_bytes": MIB, "device_id": "node-2/cpu", "memory_type": "shared"}
    )
    made = gateway.call(
        "memory.allocate", {"size_bytes": MIB, "device_id": "node-2/sim:0", "lease_ms": 600_000}
    )
    gateway.call("memory.load_model", {"model_id": "b", "device_id": "node-2/cpu"})
    drained = gateway.call("fleet.drain", {"node": "node-2"})
    assert [(each["allocation_id"], each["model_id"]) for each in drained["moved"]] == [
        (made["allocation_id"], None),
        (None, "b"),
    ]
    assert [each["id"] for each in drained["kept"]] == [kept["allocation_id"]]
    at = drained["moved"][0]["destination_allocation_id"]
    row = gateway.call("memory.get_allocations", {"allocation_id": at})["allocations"][0]
    assert node_of(row["device_id"]) != "node-2"
    assert 0 < row["lease_expires_in_ms"] <= 600_000
    placed = [gateway.call("memory.allocate", {"size_bytes": MIB})["device_id"] for _ in range(9)]
    assert "node-2" not in {node_of(each) for each in placed}
    assert gateway.refused("fleet.drain", {"node": "node-9"})["code"] == "node_not_found"
    back = len(gateway.events("device.recovered"))
    cluster.actors("Node")["node-2"].kill()  # it is started again by Ray, and is placed on again
    eventually(lambda: len(gateway.events("device.recovered")) >= back + 2, "node-2 is back", START_SECONDS)
    eventually(lambda: health(gateway, "node-2") == "ok", "node-2 has a lease", START_SECONDS)
