"""Stores of vectors and preferences of a whole worker: they are there after it was killed, and give memory back to a plan."""

import random
from pathlib import Path
from typing import Any

from tests.e2e.process import Worker, worker

SCOPE = {"user_id": "ann", "project_id": "notes"}


def fill(started: Worker, count: int, dimensions: int) -> list[list[float]]:
    """Put random vectors."""
    chance = random.Random(1)
    vectors = [[chance.gauss(0, 1) for _ in range(dimensions)] for _ in range(count)]
    for number, vector in enumerate(vectors):
        entry = {"key": f"{number:03}", "vector": vector, "value": {"n": number}, "tags": [f"t{number % 2}"]}
        assert started.call("store.put", {"store": "near", **SCOPE, **entry})["stored"]
    return vectors


def opened(started: Worker) -> dict[str, Any]:
    """Open both."""
    kept = {"options": {"persist": True}, **SCOPE}
    started.call("store.open", {"store": "of me", "kind": "preferences", **kept})
    return started.call("store.open", {"store": "near", "kind": "vectors", **kept})


def test_they_are_there_after_the_worker_was_killed(tmp_path: Path) -> None:
    """The same answers to the bit, from a cold file; another scope has none of them."""
    with worker("--store-folder", str(tmp_path)) as started:
        assert opened(started)["created"]
        vectors = fill(started, 60, 32)
        question = {"store": "near", **SCOPE, "vector": vectors[7], "limit": 3, "tags": ["t1"]}
        before = started.call("store.search", question)
        assert next(each["key"] for each in before["results"]) == "007"
        preference = {"store": "of me", **SCOPE, "key": "language", "value": {"value": "German"}}
        started.call("store.put", preference)
        started.process.kill()
        started.process.wait()
    with worker("--store-folder", str(tmp_path)) as started:
        assert started.refused("store.search", question)["code"] == "store_not_found"
        assert not opened(started)["created"]
        assert started.call("store.search", question) == before
        assert started.call("store.list", {"store": "of me", **SCOPE})["prompt"] == "- language: German"
        other = {"store": "near", "kind": "vectors", "user_id": "ann_notes", "project_id": "x"}
        started.call("store.open", other)
        found = started.call("store.search", question | {"user_id": "ann_notes", "project_id": "x"})
        assert found == {"results": [], "prompt": None}
        gone = started.call("store.delete_scope", {"user_id": "ann"})
        assert (sorted(gone["stores"]), gone["deleted_entries"]) == (["near", "of me"], 61)
    assert not list(tmp_path.rglob("*.store"))


def test_a_plan_buys_them_at_the_price_of_reading_them_back(tmp_path: Path) -> None:
    """What is on disk, too, is offered; what is not, and preferences, are a floor."""
    with worker("--store-folder", str(tmp_path)) as started:
        opened(started)
        vectors = fill(started, 40, 256)
        started.call("store.open", {"store": "here", "kind": "vectors"})
        started.call("store.put", {"store": "here", "key": "a", "vector": vectors[0], "value": 1})
        rows = {each["consumer_id"]: each for each in started.call("memory.get_consumers")["consumers"]}
        near, here = rows["store:vectors:near"], rows["store:vectors:here"]
        assert near["held_bytes"] - near["floor_bytes"] >= 40 * 520
        assert near["price_ms_per_mib"] > 0
        assert here["held_bytes"] == here["floor_bytes"] > 0
        assert here["price_ms_per_mib"] is None
