"""Of any nodes, whatever was placed on them: the decision of the rows is that of pricing every node, and is a right one."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.vocabulary import DeviceKind, DeviceState, FileLocation, ModelState
from worker.fleet.candidates import Candidates
from worker.fleet.changes import change
from worker.fleet.known import KnownNode
from worker.fleet.options import Option, Pricing
from worker.fleet.placement import Placement, place, place_among
from worker.fleet.pricing import RoomCurve, Usual, level_of, turn_ms
from worker.fleet.views import (
    Cause,
    Choice,
    DeviceView,
    ModelView,
    NodeView,
    Passed,
    PlacementRequest,
    PriceStep,
    Step,
)

MODELS = ("m0", "m1", "m2")
NOW_NS = 100

SIZES = [0, 1, 3, 4, 8, 9, 16]
TIMES = [0.0, 1.0, 100.0, 1000.0, 1040.0, 5000.0]
seeds = st.integers(0, 2**32)


def maybe(rng: Random, values: Sequence[Any]) -> Any:
    return rng.choice([None, *values])


def a_device(rng: Random, device_id: str) -> DeviceView:
    steps = [
        PriceStep(rng.randint(1, 9), rng.choice(TIMES), rng.random() < 0.5) for _ in range(rng.randint(0, 3))
    ]
    return DeviceView(
        device_id,
        DeviceKind.CPU if device_id == "cpu" else DeviceKind.CUDA,
        available_bytes=maybe(rng, SIZES),
        prices=tuple(steps),
        queue_ms=rng.choice(TIMES),
        in_use=rng.randint(0, 5),
        work_ms=maybe(rng, TIMES),
        so_far_ms=rng.choice([0.0, *TIMES]),
        unslowed=rng.choice([0, 1, 3]),
        parallel=maybe(rng, [1, 2]),
        state=rng.choice([DeviceState.AVAILABLE] * 4 + [DeviceState.LOST]),
    )


def a_model(rng: Random, model_id: str) -> ModelView:
    state = rng.choice([ModelState.UNLOADED] * 3 + list(ModelState))
    there = state in {ModelState.LOADED, ModelState.LOADING}
    return ModelView(
        model_id,
        state,
        size_bytes=maybe(rng, SIZES),
        device_id=rng.choice(["cuda:0", "cpu"]) if there else None,
        devices=rng.choice([(), (), ("cuda:0",), ("cpu", "cuda:1")]),
        load_ms=maybe(rng, TIMES),
        restore_ms=maybe(rng, TIMES),
        file=rng.choice(list(FileLocation)),
        read_bytes_per_s=maybe(rng, [5.0]),
        ready_in_ms=rng.choice(TIMES),
        refused=rng.choice([None, None, None, "its file is damaged"]),
    )


def a_node(rng: Random, node_id: str, revision: int = 1) -> NodeView:
    ids = rng.choice([("cuda:0",), ("cuda:0", "cpu"), ("cpu", "cuda:0", "cuda:1"), ()])
    return NodeView(
        node_id,
        "a",
        revision,
        tuple(a_device(rng, each) for each in ids),
        tuple(a_model(rng, each) for each in MODELS if rng.random() < 0.8),
        maybe(rng, ids),
        draining=rng.random() < 0.1,
        leased_until_ns=rng.choice([None, NOW_NS + 1, NOW_NS + 1, NOW_NS]),
    )


def a_request(rng: Random) -> PlacementRequest:
    return PlacementRequest(
        model_id=maybe(rng, MODELS),
        required_bytes=maybe(rng, SIZES),
        node_id=rng.choice([None] * 9 + ["n1"]),
        device_id=rng.choice([None] * 9 + ["cpu"]),
        kind=rng.choice([None] * 9 + [DeviceKind.CUDA]),
        excluded=frozenset(rng.choice([(), (), ("n0",), ("n2",)])),
        make_room=rng.random() < 0.8,
        new_use=rng.random() < 0.8,
        salt=rng.choice("abc"),
    )


def a_fleet(rng: Random) -> Candidates:
    """Nodes that came one after the other, changed, were placed on and went, as a directory hears of them."""
    candidates = Candidates(scanned=0)
    names = [f"n{index}" for index in range(rng.randint(1, 8))]
    for name in names:
        candidates.update(a_node(rng, name))
    for number in range(rng.randint(0, 8)):
        name = rng.choice(names)
        node = candidates.get(name)
        match rng.choice(["place", "place", "change", "view", "refuse", "remove"]):
            case "place":
                request = a_request(rng)
                chosen = candidates.place(request, NOW_NS).chosen
                if chosen is not None:
                    uses = request.model_id is not None and rng.random() < 0.5
                    candidates.reservations.add(str(number), chosen, request.model_id, uses=uses)
                    if rng.random() < 0.5:
                        candidates.reservations.accepted(str(number), chosen.node_id, "a", 3)
            case "change" if node is not None:
                told = node.view()
                now = a_node(rng, name, told.revision + 1)
                if [each.device_id for each in now.devices] == [each.device_id for each in told.devices]:
                    assert candidates.apply(change(told, now))
            case "view":
                candidates.update(a_node(rng, name, 1 if node is None else node.revision + 1))
            case "refuse":
                candidates.reservations.refused(str(number), name, "a", 2)
            case "remove":
                candidates.remove(name)
            case _:
                pass
    return candidates


def same(left: Placement, right: Placement) -> bool:
    return (left.choices, left.why_passed()) == (right.choices, right.why_passed())


@settings(max_examples=400, deadline=None)
@given(seeds)
def test_rows_decide_as_pricing_every_node_does(seed: int) -> None:
    rng = Random(seed)
    candidates, request = a_fleet(rng), a_request(rng)
    every = place_among(request, candidates.nodes, candidates.reservations, NOW_NS)
    assert same(candidates.place(request, NOW_NS), every)
    assert candidates.place(request, NOW_NS).chosen == every.chosen


@settings(max_examples=200, deadline=None)
@given(seeds)
def test_changes_come_to_what_whole_views_would(seed: int) -> None:
    candidates = a_fleet(Random(seed))
    again = Candidates(scanned=0)
    for node in candidates.nodes:
        again.update(node.view())
    again.reservations = candidates.reservations
    for model_id in MODELS:
        request = PlacementRequest(model_id=model_id, salt="a")
        changed = candidates.place(
            request, NOW_NS
        )  # first: it takes what changed from the reservations, which it alone owns
        assert same(again.place(request, NOW_NS), changed)


def fits(node: KnownNode, choice: Choice, taken: int) -> bool:
    """Whether what a choice takes is within the device's headroom and what can go, beside what was placed there."""
    device = node.devices[choice.device_id]
    if choice.step in {Step.LOADED, Step.LOADING} or device.available_bytes is None:
        return True
    more = node.curve(device).most_bytes if choice.step is Step.MAKES_ROOM else 0
    return choice.size_bytes + taken <= device.available_bytes + more


def last_resort(node: KnownNode, choice: Choice, request: PlacementRequest) -> tuple[bool, bool, int]:
    """What choices are ordered by: whether the file is missing, the device's kind another, and the price's level."""
    model = node.models.get(request.model_id or "")
    there = choice.step in {Step.LOADED, Step.LOADING}
    absent = model is not None and model.file is FileLocation.ABSENT and not there
    return absent, choice.step is Step.FITS_ELSEWHERE, level_of(choice.price_ms)


@settings(max_examples=300, deadline=None)
@given(seeds)
def test_a_decision_keeps_every_bound_and_says_why_of_every_node(seed: int) -> None:
    rng = Random(seed)
    candidates, request = a_fleet(rng), a_request(rng)
    placement = candidates.place(request, NOW_NS)
    known = {node.node_id: node for node in candidates.nodes}
    for choice in placement.choices:
        node = known[choice.node_id]
        assert not node.draining
        assert node.leased_until_ns is None or node.leased_until_ns > NOW_NS
        assert choice.node_id not in request.excluded
        assert not candidates.reservations.is_stale(node)
        taken = candidates.reservations.of(node.node_id).bytes_by_device.get(choice.device_id, 0)
        assert fits(node, choice, taken)
        assert request.make_room or choice.step is not Step.MAKES_ROOM
        assert request.device_id in {None, choice.device_id}
    order = [last_resort(known[each.node_id], each, request) for each in placement.choices]
    assert order == sorted(order)
    passed = placement.why_passed()
    chosen = set() if placement.chosen is None else {placement.chosen.node_id}
    assert {each.node_id for each in passed} | chosen == known.keys()
    assert len(passed) + len(chosen) == len(known)
    assert all(each.reason.startswith(f"{each.node_id}: ") for each in passed)
    dearer = {each.node_id for each in passed if each.cause is Cause.DEARER}
    assert dearer == {each.node_id for each in placement.choices[1:]}


def test_many_gateways_load_a_model_once_and_spread_different_ones() -> None:
    device = DeviceView("cuda:0", DeviceKind.CUDA, available_bytes=100)
    known = tuple(ModelView(f"m{index}", size_bytes=10, load_ms=1000.0) for index in range(40))
    views = [NodeView(f"node-{index}", "a", 1, (device,), known) for index in range(20)]
    homes = {place(PlacementRequest("m1", salt=str(salt)), views).choices[0].node_id for salt in range(8)}
    assert len(homes) == 1
    spread = {place(PlacementRequest(each.model_id), views).choices[0].node_id for each in known}
    assert len(spread) > 8


def test_a_change_that_follows_on_another_revision_is_not_taken_over() -> None:
    candidates = Candidates()
    view = NodeView("n1", "a", 1, (DeviceView("cpu", DeviceKind.CPU),))
    candidates.update(view)
    later = replace(view, revision=3, draining=True)
    assert not candidates.apply(change(replace(view, revision=2), later))
    assert not candidates.apply(replace(change(view, later), incarnation="b"))
    assert candidates.nodes[0].view() == view
    candidates.update(later)
    assert candidates.nodes[0].draining


def test_a_node_that_drains_no_more_is_placed_on_again() -> None:
    candidates = Candidates(scanned=0)
    view = NodeView("n1", "a", 1, (DeviceView("cpu", DeviceKind.CPU, available_bytes=9),), draining=True)
    candidates.update(view)
    request = PlacementRequest(required_bytes=4)
    assert candidates.place(request).chosen is None
    assert candidates.apply(change(view, replace(view, revision=2, draining=False)))
    assert candidates.place(request).chosen is not None


def test_a_nodes_lease_outlives_its_views_and_ends() -> None:
    candidates = Candidates(scanned=0)
    view = NodeView("n1", "a", 1, (DeviceView("cpu", DeviceKind.CPU, available_bytes=9),))
    candidates.update(view)
    candidates.renew("n1", 50)
    candidates.update(replace(view, revision=2))
    request = PlacementRequest(required_bytes=4)
    assert candidates.place(request, 49).chosen is not None
    assert [each.cause for each in candidates.place(request, 50).why_passed()] == [Cause.LEASE_ENDED]
    candidates.renew("n1", 100)
    assert candidates.place(request, 50).chosen is not None


def test_names_that_no_node_knows_leave_nothing_behind() -> None:
    """A host may ask for any number of them."""
    candidates = Candidates(scanned=0)
    candidates.update(NodeView("n1", "a", 1, (DeviceView("cpu", DeviceKind.CPU),), (ModelView("m0"),)))
    for name in ("m0", *(f"no-{number}" for number in range(9))):
        candidates.place(PlacementRequest(name))
    assert candidates._loads.keys() == {"m0"}


def many(number: int) -> Candidates:
    """Nodes that are all alike, with room for a model that none has."""
    device = DeviceView("cuda:0", DeviceKind.CUDA, available_bytes=9, work_ms=1000.0, parallel=1)
    known = (ModelView("m0", size_bytes=8, load_ms=100.0),)
    candidates = Candidates(scanned=0)
    for index in range(number):
        candidates.update(NodeView(f"n{index}", "a", 1, (device,), known))
    return candidates


def test_nodes_that_are_busy_with_this_gateways_own_calls_are_not_priced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their views leave those out: only what was placed says that it is not their turn for long."""
    candidates = many(40)
    for node in candidates.nodes[1:]:
        busy = Choice(node.node_id, "cuda:0", 1, Step.LOADED, 0.0, 0.0, 0.0, 0, "")
        candidates.reservations.add(node.node_id, busy, "m9", uses=True)
    priced: list[str] = []
    price = Pricing.price

    def noted(pricing: Pricing, node: KnownNode) -> Option | Passed:
        priced.append(node.node_id)
        return price(pricing, node)

    monkeypatch.setattr(Pricing, "price", noted)
    free = candidates.nodes[0].node_id
    chosen = candidates.place(PlacementRequest("m0")).chosen
    assert chosen is not None and chosen.node_id == free
    assert priced == [free]
    for node in candidates.nodes[1:]:
        candidates.reservations.answered(node.node_id, node.node_id)
    home = place_among(PlacementRequest("m0"), candidates.nodes, candidates.reservations, 0).chosen
    assert candidates.place(PlacementRequest("m0")).chosen == home


def test_what_room_costs_is_worked_out_where_a_decision_comes_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at every change of every node, of which a thousand nodes tell hundreds between two decisions."""
    candidates = many(40)
    candidates.place(PlacementRequest("m0"))
    worked_out: list[str] = []
    curve = KnownNode.curve

    def noted(node: KnownNode, device: DeviceView) -> RoomCurve:
        worked_out.append(node.node_id)
        return curve(node, device)

    monkeypatch.setattr(KnownNode, "curve", noted)
    for node in candidates.nodes:
        view = node.view()
        full = replace(view.devices[0], available_bytes=0, prices=(PriceStep(9, 50.0),))
        assert candidates.apply(change(view, replace(view, revision=2, devices=(full,))))
    assert worked_out == []
    placement = candidates.place(PlacementRequest("m0"))
    assert len(set(worked_out)) == 40, "all are as good until it is known what room costs"
    worked_out.clear()
    assert candidates.place(PlacementRequest("m0")).chosen == placement.chosen
    assert set(worked_out) == {placement.chosen and placement.chosen.node_id}


def test_longer_turns_are_worked_out_where_a_decision_comes_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is expected of leases moves all the time in a fleet that is new: the turns that were are still the least."""
    candidates = many(40)
    free, *others = candidates.nodes
    for node in others:
        view = node.view()
        busy = replace(view.devices[0], work_ms=None, parallel=None, in_use=1)
        assert candidates.apply(change(view, replace(view, revision=2, devices=(busy,))))
    candidates.place(PlacementRequest("m0"))
    worked_out: list[float | None] = []

    def noted(device: DeviceView, ahead: int, usual: Usual) -> float:
        worked_out.append(device.work_ms)
        return turn_ms(device, ahead, usual)

    monkeypatch.setattr("worker.fleet.candidates.turn_ms", noted)
    for revision, work_ms, most in ((2, 5000.0, 1), (3, 500.0, 40)):  # shorter ones are to be known at once
        view = free.view()
        measured = replace(view.devices[0], work_ms=work_ms)
        assert candidates.apply(change(view, replace(view, revision=revision, devices=(measured,))))
        chosen = candidates.place(PlacementRequest("m0")).chosen
        assert chosen is not None and chosen.node_id == free.node_id
        assert len(worked_out) == most
        worked_out.clear()
