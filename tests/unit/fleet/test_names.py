"""Names across nodes: what is on a node is told with it, and understood by it."""

from typing import Any

import pytest

from worker.fleet.names import in_order, is_node_name, joined, node_name, outward, split


def test_a_name_is_split_at_its_node() -> None:
    """What begins with a node's name and a slash is on it; the rest, slashes included, is what it is there."""
    assert split("node-1/cuda:0") == ("node-1", "cuda:0")
    assert split("cuda:0") == (None, "cuda:0")
    assert split("node-1/") == (None, "node-1/")
    assert split("all/x") == (None, "all/x")
    assert split(joined("gpu.example.org", "alloc-1-ab")) == ("gpu.example.org", "alloc-1-ab")


@pytest.mark.parametrize(
    ("given", "valid"), [("node-1", True), ("all", False), ("", False), ("a/b", False), ("-a", False)]
)
def test_some_words_are_no_names(given: str, valid: bool) -> None:
    """No node is called ``all``, and none has a slash."""
    assert is_node_name(given) is valid


def test_any_machine_gets_a_name() -> None:
    """What can't be in a name becomes a dash."""
    assert node_name("höst 7!") == "h-st-7"
    assert node_name("!!") == "node"


def test_numbers_count_as_numbers() -> None:
    """``node-10`` is after ``node-9``."""
    assert in_order({"node-10", "node-9", "b", "a2"}) == ["a2", "b", "node-9", "node-10"]


def test_what_a_worker_says_is_told_with_its_node() -> None:
    """Devices and ids are named with the node, however deep; models, owners and the host's own consumers are not."""
    said: dict[str, Any] = {
        "devices": [{"device_id": "cpu", "shared_with": None, "name": "cpu"}],
        "recommended_actions": [{"action": "memory.clear", "data": {"device_id": "cuda:0", "model_id": "a"}}],
        "allocation_ids": ["alloc-1-ab"],
        "kept": [{"id": "alloc-2", "reason": "persistent"}, {"id": "llama", "reason": "pinned"}],
        "consumers": [{"consumer_id": "pool:cpu"}, {"consumer_id": "responses"}],
        "plan_id": None,
    }
    assert outward("n", said) == {
        "devices": [{"device_id": "n/cpu", "shared_with": None, "name": "cpu"}],
        "recommended_actions": [
            {"action": "memory.clear", "data": {"device_id": "n/cuda:0", "model_id": "a"}}
        ],
        "allocation_ids": ["n/alloc-1-ab"],
        "kept": [{"id": "n/alloc-2", "reason": "persistent"}, {"id": "llama", "reason": "pinned"}],
        "consumers": [{"consumer_id": "n/pool:cpu"}, {"consumer_id": "responses"}],
        "plan_id": None,
    }
