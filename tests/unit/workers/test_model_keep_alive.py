"""Idle models go when they are due, used ones stay, and the record tells why each went."""

import pytest

from protocol.vocabulary import ModelState, UnloadMode
from tests.unit.machine import MIB
from tests.unit.workers.model_machines import Make, make, state
from worker.core.clock import NS_PER_S
from worker.core.errors import DeviceUnavailableError
from worker.core.models import FOREVER_NS
from worker.core.records import DecisionKind, EvictionCause
from worker.plugins._leases import Models

__all__ = ["make"]


def test_models_that_went_with_their_device_are_recorded(make: Make) -> None:
    """The record says that they went, and why: their next load is no surprise to a replay."""
    machine = make(lose_at=7)
    machine.load("a")
    with pytest.raises(DeviceUnavailableError):
        machine.load("b"), machine.load("c")
    machine.load("a", device_id="cpu")
    gone = [row for row in machine.decisions if row.kind is DecisionKind.EVICT]
    loaded = [row.model_id for row in machine.decisions if row.kind is DecisionKind.LOAD]
    assert [row.model_id for row in gone] == loaded[:-1]
    assert gone[-1].cause is EvictionCause.LOST


def test_the_record_tells_leases_keep_alives_and_why_models_went(make: Make) -> None:
    """What a replay under another policy has to know, each with the moment and the device."""
    machine = make(more={"a": {"keep_alive_ns": 10 * NS_PER_S}})
    models = Models(machine.models, machine.clock)
    with models.use("a"), models.use("a"):
        machine.pass_time(60 * NS_PER_S)
    machine.pass_time(10 * NS_PER_S)
    machine.load("b", pin=True, keep_alive_ns=NS_PER_S)
    machine.load("b", pin=False)
    machine.memory.models.unload("b", UnloadMode.UNLOAD, machine.token())
    for each in "abc":
        machine.load(each)
    told = [(row.kind, row.model_id, row.cause) for row in machine.decisions]
    assert told[:6] == [
        (DecisionKind.LOAD, "a", None), (DecisionKind.USE, "a", None), (DecisionKind.LEASE, "a", None),
        (DecisionKind.USE, "a", None), (DecisionKind.RELEASE, "a", None), (DecisionKind.EVICT, "a", EvictionCause.IDLE),
    ]  # fmt: skip
    kept = [(row.keep_alive_ms, row.pinned) for row in machine.decisions if row.kind is DecisionKind.KEEP]
    assert kept == [(1000, True), (1000, False)]
    assert [row.cause for row in machine.decisions if row.kind is DecisionKind.EVICT] == [
        EvictionCause.IDLE, EvictionCause.ASKED, EvictionCause.POLICY,
    ]  # fmt: skip
    assert {row.capacity_bytes for row in machine.decisions} == {10 * MIB}


def test_idle_models_go_and_used_ones_stay(make: Make) -> None:
    """A keep-alive counts from the last use; a pinned model, and one without a keep-alive, stays."""
    machine = make(more={"a": {"keep_alive_ns": 10 * NS_PER_S}, "b": {"keep_alive_ns": None}})
    machine.load("a"), machine.load("b")
    machine.pass_time(9 * NS_PER_S)
    machine.load("a")
    machine.pass_time(9 * NS_PER_S)
    assert state(machine, "a") is ModelState.LOADED
    machine.pass_time(NS_PER_S)
    assert (state(machine, "a"), state(machine, "b")) == (ModelState.UNLOADED, ModelState.LOADED)
    assert "idle past its keep-alive of 10000 ms" in machine.history.evictions(("sim:0",), 60_000)[0].reason
    machine.load("a", pin=True)
    machine.pass_time(60 * NS_PER_S)
    assert state(machine, "a") is ModelState.LOADED


def test_a_request_keeps_a_model_for_ever(make: Make) -> None:
    """As the file can: it stays until a later request says otherwise, and is evicted where room is needed."""
    machine = make(more={"a": {"keep_alive_ns": 10 * NS_PER_S}})
    kept = machine.load("a", keep_alive_ns=FOREVER_NS)
    assert (kept.keep_alive_ms, kept.expires_in_ms) == (None, None)
    machine.pass_time(3600 * NS_PER_S)
    assert state(machine, "a") is ModelState.LOADED
    assert machine.load("a").keep_alive_ms is None
    machine.load("b", pin=True)
    assert [row.model_id for row in machine.load("c").models_unloaded] == ["a"]
    assert machine.load("a", keep_alive_ns=NS_PER_S).keep_alive_ms == 1000
    machine.pass_time(NS_PER_S)
    assert state(machine, "a") is ModelState.UNLOADED


def test_offloading_comes_before_unloading(make: Make) -> None:
    """A model that may be offloaded goes to host memory, and unloading it from there frees that."""
    machine = make(more={"a": {"offload": True}})
    machine.load("a"), machine.load("b")
    result = machine.load("c")
    assert state(machine, "a") is ModelState.OFFLOADED
    assert result.models_unloaded[0].reason.startswith("offloaded")
    assert machine.manager.pressure.status("cpu").model_bytes == 4 * MIB
    machine.check()
    unloaded = machine.memory.models.unload("a", UnloadMode.UNLOAD, machine.token())
    assert unloaded.freed_bytes == 4 * MIB
    assert state(machine, "a") is ModelState.UNLOADED
    assert machine.memory.models.unload("a", UnloadMode.UNLOAD, machine.token()).freed_bytes == 0
    machine.check()


def test_every_decision_is_recorded(make: Make) -> None:
    """Loads, uses and evictions are all in the record, evictions with their reason."""
    machine = make()
    for each in "abca":
        machine.load(each)
    kinds = [row.kind for row in machine.decisions]
    assert kinds.count(DecisionKind.LOAD) == 4 - (
        kinds.count(DecisionKind.USE) - kinds.count(DecisionKind.LOAD)
    )
    assert kinds.count(DecisionKind.EVICT) >= 1
    assert all(row.reason for row in machine.decisions if row.kind is DecisionKind.EVICT)
