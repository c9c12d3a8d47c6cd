"""The host's own memory, by JSON: it is asked before dearer models go, answers, and nothing waits behind the question."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import MIB, Worker, eventually, worker
from tests.rigs.model_files import write_model

DEVICE = "sim:0"
ASKED = "memory.release_requested"


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Worker]:
    """Return a worker with a device of 64 MiB and a model of 16 that is loaded there; it listens for what it is asked."""
    write_model(tmp_path / "m.safetensors", 16 * MIB, seed=1)
    path = tmp_path / "models.yaml"
    path.write_text(f"models:\n  - {{id: m, loader: safetensors, path: m.safetensors, device: '{DEVICE}'}}\n")
    with worker("--simulated-device", f"{64 * MIB},latency_ms=1", "--models", str(path)) as started:
        started.call("worker.subscribe", {"events": [ASKED, "memory.consumer_limit_changed"]})
        started.call("memory.load_model", {"model_id": "m"})
        yield started


def hold(up: Worker, size: int) -> str:
    """Hold memory on the device, as a cache of the host's does."""
    name: str = up.call("memory.allocate", {"size_bytes": size, "device_id": DEVICE, "owner": "cache"})[
        "allocation_id"
    ]
    return name


def register(up: Worker, held: int, cost_ms: float, name: str = "responses") -> dict[str, Any]:
    """Register a cache, all of which is to be had."""
    offers = [{"bytes": held, "cost_ms": cost_ms}] if held else []
    data = {
        "consumer_id": name,
        "kind": "response_cache",
        "device_id": DEVICE,
        "held_bytes": held,
        "offers": offers,
    }
    return up.call("memory.register_consumer", data)


def test_a_conversation(up: Worker) -> None:
    """Registered, asked, given back, answered: by bytes that the device shows, and the model stays loaded."""
    entries = [hold(up, 8 * MIB) for _ in range(4)]
    assert register(up, 32 * MIB, 0.001) == {"consumer_id": "responses", "created": True, "limit_bytes": None}
    asked = up.send("memory.allocate", {"size_bytes": 24 * MIB, "device_id": DEVICE, "make_room": True})
    question = up.event(ASKED)["data"]
    assert (question["consumer_id"], question["bytes"], question["limit_bytes"]) == (
        "responses",
        8 * MIB,
        24 * MIB,
    )
    up.call("memory.deallocate", {"allocation_id": entries.pop()})
    said = up.call("memory.released", {"consumer_id": "responses", "bytes": 8 * MIB})
    assert said == {"consumer_id": "responses", "held_bytes": 24 * MIB, "limit_bytes": 24 * MIB}
    made = up.reply(asked)["data"]
    assert made["models_unloaded"] == []
    assert [(each["claimed_bytes"], each["returned_bytes"]) for each in made["released"]] == [
        (8 * MIB, 8 * MIB)
    ]
    rows = {
        each["consumer_id"]: each
        for each in up.call("memory.get_consumers", {"device_id": DEVICE})["consumers"]
    }
    assert list(rows) == ["model:m", f"pool:{DEVICE}", "responses"]
    assert rows["responses"]["last_released_ms_ago"] is not None
    assert rows["model:m"]["price_ms_per_mib"] > rows["responses"]["price_ms_per_mib"]
    assert up.call("memory.unregister_consumer", {"consumer_id": "responses"})["existed"]
    assert (
        up.refused("memory.released", {"consumer_id": "responses", "bytes": 1})["code"]
        == "consumer_not_found"
    )


def test_what_was_freed_before_it_was_said_counts(up: Worker) -> None:
    """A host need not wait for the answer to its free before it says that it gave back: lines are taken in order."""
    entry = hold(up, 8 * MIB)
    hold(up, 24 * MIB)
    register(up, 32 * MIB, 0.001)
    asked = up.send("memory.allocate", {"size_bytes": 24 * MIB, "device_id": DEVICE, "make_room": True})
    up.event(ASKED)
    freed = up.send("memory.deallocate", {"allocation_id": entry})
    said = up.send("memory.released", {"consumer_id": "responses", "bytes": 8 * MIB})
    (given,) = up.reply(asked)["data"]["released"]
    assert (given["consumer_id"], given["returned_bytes"]) == ("responses", 8 * MIB)
    assert up.reply(freed)["success"]
    assert up.reply(said)["success"]


def test_nothing_waits_behind_the_question(up: Worker) -> None:
    """While more requests wait for a silent host than there are threads, memory is freed and the host is heard."""
    cache, other = hold(up, 24 * MIB), hold(up, 16 * MIB)
    register(up, 24 * MIB, 0.001)
    data = {"size_bytes": 30 * MIB, "device_id": DEVICE, "make_room": True}
    waiting = [up.send("memory.allocate", data) for _ in range(6)]
    waiting.append(up.send("memory.optimize", {"device_id": DEVICE, "optimization_level": "normal"}))
    waiting.append(
        up.send("memory.model_optimize", {"device_id": DEVICE, "min_memory_to_free_bytes": 60 * MIB})
    )
    up.event(ASKED)
    freed = up.call("memory.deallocate", {"allocation_id": other})
    assert freed["freed_bytes"] == 16 * MIB
    assert up.refused("memory.deallocate", {"allocation_id": "alloc-999"})["code"] == "allocation_not_found"
    assert register(up, 8 * MIB, 1.0, "beside")["created"]
    assert up.call("memory.released", {"consumer_id": "beside", "bytes": MIB})["held_bytes"] == 7 * MIB
    assert not any(up.replies(each) for each in waiting[:6]), "all of that while they waited"
    up.call("memory.deallocate", {"allocation_id": cache})
    up.call("memory.released", {"consumer_id": "responses", "bytes": 24 * MIB})
    outcomes = [up.reply(each) for each in waiting[:6]]
    assert any(each["success"] for each in outcomes)
    assert {each["error"]["code"] for each in outcomes if not each["success"]} <= {"out_of_memory"}
    for each in waiting[6:]:
        assert up.reply(each)["success"]


def test_a_cancelled_request_lets_go_of_the_question(up: Worker) -> None:
    """Whoever waits for a host can be cancelled like all else, and then nothing of it is left."""
    hold(up, 40 * MIB)
    register(up, 40 * MIB, 0.001)
    asked = up.send("memory.allocate", {"size_bytes": 16 * MIB, "device_id": DEVICE, "make_room": True})
    up.event(ASKED)
    assert up.call("worker.cancel", {"request_id": asked})["found"]
    assert up.reply(asked)["error"]["code"] == "cancelled"
    status = up.call("memory.get_status", {"device_id": DEVICE})["devices"][0]
    assert status["allocated_bytes"] == 40 * MIB


def test_a_host_that_died_is_forgotten_with_its_lease(up: Worker) -> None:
    """A registration with a lease that nobody renews is gone; the worker goes on as if it had never been."""
    data = {"consumer_id": "brief", "held_bytes": MIB, "offers": [], "lease_ms": 50}
    assert up.call("memory.register_consumer", data)["created"]
    eventually(
        lambda: "brief" not in {each["consumer_id"] for each in up.call("memory.get_consumers")["consumers"]},
        "the lease ends",
    )
