"""What a node tells: what would move a placement at once, the rest with its lease, and never more than there is to tell."""

from dataclasses import replace
from typing import Any

import pytest

from protocol.vocabulary import DeviceKind, DeviceState, ModelState
from worker.fleet.changes import EVERY_NS, LEAST_BYTES, RENEW_NS, Outbox
from worker.fleet.views import DeviceView, ModelView, NodeChange, NodeView, PriceStep

GB = 10**9
DEVICE = DeviceView(
    "cuda:0",
    DeviceKind.CUDA,
    24 * GB,
    8 * GB,
    (PriceStep(4 * GB, 1000.0),),
    in_use=4,
    work_ms=1000.0,
    parallel=2,
)
MODEL = ModelView("m", size_bytes=4 * GB, load_ms=4000.0)
NODE = NodeView("n1", "a", 0, (DEVICE,), (MODEL,))


def told(now_ns: int = 0) -> Outbox:
    """An outbox that told of the node at a time."""
    outbox = Outbox()
    assert outbox.next_message(NODE, now_ns) == replace(NODE, revision=1)
    return outbox


@pytest.mark.parametrize(
    "device",
    [
        {"available_bytes": 4 * GB},
        {"available_bytes": None},
        {"state": DeviceState.LOST},
        {"queue_ms": 900.0},
        {"in_use": 9},
        {"prices": (PriceStep(4 * GB, 3000.0),)},
        {"prices": (PriceStep(GB, 1000.0),)},
    ],
)
def test_a_device_that_would_be_placed_on_otherwise_is_told_of_at_once(device: dict[str, Any]) -> None:
    outbox = told()
    other = replace(DEVICE, **device)
    message = outbox.next_message(replace(NODE, devices=(other,)), EVERY_NS)
    assert message == NodeChange("n1", "a", 1, 2, devices=(other,))


@pytest.mark.parametrize(
    "model",
    [
        {"state": ModelState.LOADING, "device_id": "cuda:0"},
        {"size_bytes": 5 * GB},
        {"refused": "its file is damaged"},
        {"names": ("chat",)},
    ],
)
def test_a_model_in_another_state_is_told_of_at_once(model: dict[str, Any]) -> None:
    other = replace(MODEL, **model)
    node = replace(NODE, models=(other,))
    assert told().next_message(node, EVERY_NS - 1) is None
    assert told().next_message(node, EVERY_NS - 1, at_once=True) is not None  # where someone waits for it
    message = told().next_message(node, EVERY_NS)
    assert message == NodeChange("n1", "a", 1, 2, models=(other,))


def test_how_many_run_at_once_is_told_though_nobody_waits_just_now() -> None:
    """It is found at a crowd's end, and what the next crowd is shared out by."""
    idle = replace(DEVICE, in_use=0, parallel=None)
    outbox = Outbox()
    assert outbox.next_message(replace(NODE, devices=(idle,)), 0) is not None
    found = replace(idle, parallel=1)
    message = outbox.next_message(replace(NODE, devices=(found,)), EVERY_NS)
    assert message == NodeChange("n1", "a", 1, 2, devices=(found,))


def test_a_model_that_it_does_not_know_any_more_is_told_of_by_name() -> None:
    new = ModelView("new")
    message = told().next_message(replace(NODE, models=(new,)), EVERY_NS)
    assert message == NodeChange("n1", "a", 1, 2, models=(new,), models_gone=("m",))


def test_what_moves_no_placement_waits_for_the_lease_to_be_renewed() -> None:
    outbox = told()
    device = replace(DEVICE, available_bytes=8 * GB - LEAST_BYTES // 2, queue_ms=20.0)
    model = replace(MODEL, in_use=2, load_ms=4100.0)
    now = replace(NODE, devices=(device,), models=(model,))
    assert outbox.next_message(now, RENEW_NS - 1) is None
    assert outbox.next_message(now, RENEW_NS) == NodeChange("n1", "a", 1, 2, (device,), (model,))
    assert outbox.next_message(now, 2 * RENEW_NS) == NodeChange("n1", "a", 2, 3)


def test_what_comes_fast_is_told_together() -> None:
    outbox = told()
    now = replace(NODE, draining=True)
    assert outbox.next_message(now, EVERY_NS - 1) is None
    assert outbox.next_message(now, EVERY_NS) == NodeChange("n1", "a", 1, 2, draining=True)


def test_a_refusal_proves_that_what_is_different_matters() -> None:
    device = replace(DEVICE, available_bytes=8 * GB - 1)
    now = replace(NODE, devices=(device,))
    outbox = told()
    assert outbox.next_message(now, EVERY_NS) is None
    assert outbox.next_message(now, EVERY_NS, refused=True) == NodeChange("n1", "a", 1, 2, (device,))


def test_it_is_told_whole_after_a_restart_with_other_devices_and_when_the_directory_missed_something() -> (
    None
):
    outbox = told()
    again = replace(NODE, incarnation="b")
    assert outbox.next_message(again, EVERY_NS) == replace(again, revision=2)
    fewer = replace(again, devices=())
    assert outbox.next_message(fewer, 2 * EVERY_NS) == replace(fewer, revision=3)
    outbox.forget()
    assert outbox.next_revision == 4
    assert outbox.next_message(fewer, 2 * EVERY_NS) == replace(fewer, revision=4)
