"""Where a request goes: each step of the decision, and what is said of every node passed over."""

from collections import Counter
from typing import Any

import pytest

from protocol.vocabulary import DeviceKind, DeviceState, FileLocation, ModelState
from worker.fleet.known import KnownNode
from worker.fleet.placement import place
from worker.fleet.reservations import Reservations
from worker.fleet.views import (
    Cause,
    DeviceView,
    ModelView,
    NodeView,
    PlacementRequest,
    PriceStep,
    Step,
)

GB = 10**9
LOAD = PlacementRequest(model_id="m", salt="r1")


def device(available: int | None = 8 * GB, *prices: PriceStep, **more: Any) -> DeviceView:
    return DeviceView("cuda:0", DeviceKind.CUDA, 24 * GB, available, prices, **more)


def model(**more: Any) -> ModelView:
    return ModelView(**{"model_id": "m", "size_bytes": 4 * GB, "load_ms": 4000.0} | more)


def node(name: str, a_device: DeviceView | None = None, *models: ModelView, **more: Any) -> NodeView:
    return NodeView(name, "a", 1, (a_device or device(),), models or (model(),), **more)


def test_a_loaded_model_is_used_where_it_is() -> None:
    loaded = model(state=ModelState.LOADED, device_id="cuda:0")
    placement = place(LOAD, [node("n1"), node("n2", None, loaded)])
    assert placement.chosen is not None
    assert (placement.chosen.node_id, placement.chosen.step) == ("n2", Step.LOADED)
    assert [(each.node_id, each.cause) for each in placement.why_passed()] == [("n1", Cause.DEARER)]


def test_a_hot_model_is_loaded_a_second_time_where_waiting_costs_more_than_a_load() -> None:
    busy = device(in_use=9, work_ms=1000.0, parallel=1)
    loaded = model(state=ModelState.LOADED, device_id="cuda:0")
    placement = place(LOAD, [node("n1", busy, loaded), node("n2")])
    assert [(each.node_id, each.price_ms) for each in placement.choices] == [("n2", 4000), ("n1", 9000)]


def test_a_load_that_is_under_way_is_waited_for() -> None:
    loading = model(state=ModelState.LOADING, device_id="cuda:0", ready_in_ms=1500.0)
    placement = place(LOAD, [node("n1"), node("n2", None, loading)])
    assert placement.chosen is not None
    assert (placement.chosen.step, placement.chosen.wait_ms) == (Step.LOADING, 1500)


def test_where_it_fits_with_nothing_going_it_costs_its_load_alone() -> None:
    full = device(GB, PriceStep(6 * GB, 900.0))
    placement = place(LOAD, [node("n1", full), node("n2")])
    assert [(each.node_id, each.step, each.price_ms) for each in placement.choices] == [
        ("n2", Step.FITS, 4000),
        ("n1", Step.MAKES_ROOM, 4900),
    ]


def test_making_room_beside_the_file_beats_free_memory_behind_a_slow_link() -> None:
    far = model(load_ms=None, file=FileLocation.SHARED, read_bytes_per_s=100_000_000.0)
    near = device(0, PriceStep(4 * GB, 900.0))
    placement = place(LOAD, [node("n1", None, far), node("n2", near)])
    assert [(each.node_id, each.price_ms) for each in placement.choices] == [("n2", 4900), ("n1", 40000)]


def test_loads_before_it_are_waited_for() -> None:
    placement = place(LOAD, [node("n1", device(queue_ms=500.0)), node("n2", device(queue_ms=9000.0))])
    assert [(each.node_id, each.wait_ms) for each in placement.choices] == [("n1", 500), ("n2", 9000)]


@pytest.mark.parametrize(
    ("totals", "cause"),
    [((GB, 2 * GB), Cause.TOO_LARGE), ((GB, 8 * GB), Cause.NO_ROOM), ((GB, None), Cause.NO_ROOM)],
)
def test_what_is_larger_than_every_device_is_told_from_what_finds_no_room(
    totals: tuple[int | None, ...], cause: Cause
) -> None:
    """Nothing that is freed there helps it."""
    devices = tuple(
        DeviceView(f"cuda:{index}", DeviceKind.CUDA, total, available_bytes=0)
        for index, total in enumerate(totals)
    )
    request = PlacementRequest(required_bytes=4 * GB)
    passed = place(request, [NodeView("n1", "1", 1, devices)]).why_passed()
    assert [each.cause for each in passed] == [cause]


def test_nowhere_says_of_every_node_why() -> None:
    nodes = [
        node("n1", device(1_052_770_304, PriceStep(2 * GB, 1.0)), model(size_bytes=4_294_967_296)),
        node("n2", draining=True),
        node("n3", leased_until_ns=5),
        node("n4", None, model(model_id="other")),
        node("n5", None, model(refused="its file is damaged")),
        node("n6", device(state=DeviceState.LOST)),
    ]
    placement = place(LOAD, nodes, now_ns=5)
    assert placement.choices == ()
    assert [(each.node_id, each.cause) for each in placement.why_passed()] == [
        ("n1", Cause.NO_ROOM),
        ("n2", Cause.DRAINING),
        ("n3", Cause.LEASE_ENDED),
        ("n4", Cause.UNKNOWN_MODEL),
        ("n5", Cause.REFUSED),
        ("n6", Cause.NO_DEVICE),
    ]
    assert placement.why_passed()[0].reason == (
        "n1: cuda:0: 4,294,967,296 bytes needed, 1,052,770,304 available, 2,000,000,000 more at most by making room"
    )


def test_where_its_file_was_not_found_is_tried_once_nothing_else_will_do() -> None:
    """It may have come since; the node will say."""
    absent = node("n1", None, model(file=FileLocation.ABSENT, load_ms=1.0))
    cpu = DeviceView("cpu", DeviceKind.CPU, available_bytes=64 * GB)
    elsewhere = NodeView("n2", "a", 1, (device(0), cpu), (model(),), default_device_id="cuda:0")
    placement = place(LOAD, [absent, elsewhere])
    assert [each.node_id for each in placement.choices] == ["n2", "n1"]
    assert placement.choices[1].reason.endswith("its file was not found there")


def test_nothing_goes_where_no_room_may_be_made() -> None:
    request = PlacementRequest(required_bytes=4 * GB, make_room=False)
    assert not place(request, [node("n1", device(0, PriceStep(8 * GB, 1.0)))]).choices


def test_an_allocation_without_a_device_goes_to_the_nodes_default_one() -> None:
    cpu = DeviceView("cpu", DeviceKind.CPU, available_bytes=64 * GB)
    one = NodeView("n1", "a", 1, (cpu, device()), default_device_id="cuda:0")
    chosen = place(PlacementRequest(required_bytes=GB), [one]).chosen
    assert chosen is not None
    assert chosen.device_id == "cuda:0"
    assert not place(PlacementRequest(required_bytes=9 * GB), [one]).choices
    kind = place(PlacementRequest(required_bytes=9 * GB, kind=DeviceKind.CPU), [one]).chosen
    assert kind is not None
    assert kind.device_id == "cpu"


def test_what_was_placed_counts_until_a_view_shows_it() -> None:
    held = Reservations()
    one, two = node("n1"), node("n2", device(0, PriceStep(24 * GB, 10.0)))
    request = PlacementRequest(required_bytes=6 * GB)
    first = place(request, [one, two], held).chosen
    assert first is not None
    held.add("r1", first, None)
    assert first.node_id == "n1"
    second = place(request, [one, two], held).chosen
    assert second is not None
    assert second.node_id == "n2"
    held.accepted("r1", "n1", "a", 2)
    held.seen(KnownNode(one))
    assert held.of("n1").bytes_by_device["cuda:0"] == 6 * GB
    held.seen(KnownNode(NodeView("n1", "a", 2, one.devices)))
    assert not held.of("n1").bytes_by_device


def test_a_view_from_before_a_refusal_is_stale() -> None:
    held = Reservations()
    chosen = place(LOAD, [node("n1")]).chosen
    assert chosen is not None
    held.add("r1", chosen, "m")
    held.refused("r1", "n1", "a", 3)
    placement = place(LOAD, [node("n1"), node("n2")], held)
    assert [(each.node_id, each.cause) for each in placement.why_passed()] == [("n1", Cause.STALE)]
    held.seen(KnownNode(NodeView("n1", "a", 3, (device(),), (model(),))))
    assert len(place(LOAD, [node("n1"), node("n2")], held).choices) == 2


def test_where_no_lease_ended_yet_it_is_expected_to_be_held_as_long_as_elsewhere() -> None:
    loaded = model(state=ModelState.LOADED, device_id="cuda:0")
    fresh = node("n1", device(in_use=9, parallel=1), loaded)
    known = node("n2", device(in_use=0, work_ms=2000.0, parallel=1))
    assert [(each.node_id, each.price_ms) for each in place(LOAD, [fresh, known]).choices] == [
        ("n2", 4000),
        ("n1", 18000),
    ]
    alone = place(LOAD, [fresh]).chosen
    assert alone is not None
    assert alone.price_ms == 9000


def test_where_none_waited_yet_as_many_run_side_by_side_as_elsewhere_or_as_were_seen_to() -> None:
    """Else a crowd goes to whichever node was never seen to be slow: every one has to be found out by a crowd of its own."""
    loaded = model(state=ModelState.LOADED, device_id="cuda:0")
    known = node("n2", device(parallel=2, work_ms=1000.0))
    waits = []
    for unslowed in (0, 1, 3):
        fresh = node("n1", device(in_use=5, work_ms=1000.0, unslowed=unslowed), loaded)
        waits.append({each.node_id: each.wait_ms for each in place(LOAD, [fresh, known]).choices}["n1"])
    assert waits == [2000, 2000, 1000]


def test_what_is_under_way_where_none_ended_is_taken_for_half_done() -> None:
    """The first leases to end are the shortest: what is expected elsewhere is not by them alone."""
    loaded = model(state=ModelState.LOADED, device_id="cuda:0")
    fresh = node("n1", device(in_use=1, parallel=1), loaded)
    ended = node("n2", device(work_ms=1000.0, parallel=1))
    begun = [node(f"n{index}", device(so_far_ms=4000.0, parallel=1)) for index in (3, 4, 5)]
    waits = {each.node_id: each.wait_ms for each in place(LOAD, [fresh, ended, *begun]).choices}
    assert waits["n1"] == (1000 + 3 * 8000) / 4
    late = node("n1", device(in_use=1, parallel=1, so_far_ms=9000.0), loaded)
    waits = {each.node_id: each.wait_ms for each in place(LOAD, [late, ended]).choices}
    assert waits["n1"] == (1000 + 2 * 9000) / 2


def test_a_model_that_goes_costs_one_load_at_most() -> None:
    hot = PriceStep(6 * GB, 60_000.0, model_id="hot")  # ten loads of six seconds are expected to be needed
    full = node("n1", device(0, hot), model(), model(model_id="hot", load_ms=6000.0))
    chosen = place(LOAD, [full]).chosen
    assert chosen is not None
    assert 5990 < chosen.room_ms < 6000


def test_requests_in_a_row_spread_over_nodes_that_are_as_good() -> None:
    nodes = [node(f"node-{index}") for index in (1, 2, 3)]
    chosen = [
        place(PlacementRequest(required_bytes=1, salt=str(salt)), nodes).chosen for salt in range(9, 99)
    ]
    counts = Counter(each.node_id for each in chosen if each is not None)
    assert min(counts.values()) > 15
    assert len(counts) == 3
