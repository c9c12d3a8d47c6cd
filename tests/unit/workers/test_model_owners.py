"""Models that other processes hold: they are asked for, and count as freed only by their owner's word."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.vocabulary import INT64_MAX, ClearType, Executed, ModelState, UnloadMode
from tests.rigs.model_files import spec, write_model
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_S, SystemClock
from worker.core.errors import (
    CancelledError,
    InvalidRequestError,
    LimitExceededError,
    ModelBusyError,
    OutOfMemoryError,
    UnsupportedError,
)
from worker.core.events import UnloadRequested
from worker.core.models import ModelSpec
from worker.core.records import AllocationRequest, ModelDemand, WayToPlan
from worker.manager.model_entry import ModelEntry
from worker.plugins._leases import Models

DEVICE = "sim:0"


class Owner:
    """Another process, with its model on the device: it answers as it is told to."""

    def __init__(self, machine: Machine, model_id: str = "theirs", size: int = 6 * MIB) -> None:
        self.asked = 0
        self._machine, self._model_id, self._size = machine, model_id, size
        self._memory: str | None = None

    def load(self) -> None:
        self._memory = self._machine.allocate(DEVICE, self._size)
        self._machine.load(self._model_id)

    def unload(self, _model_id: str = "") -> None:
        self.asked += 1
        assert self._memory is not None
        self._machine.memory.allocations.deallocate(self._memory, force=True)
        self._machine.memory.models.unload(
            self._model_id, UnloadMode.UNLOAD, self._machine.token(), by_owner=True
        )

    def keep(self, model_id: str) -> None:
        self.asked += 1
        self._machine.load(model_id)


Make = Callable[..., tuple[Machine, Owner]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return what puts a machine together with own models a, b of 4 MiB, and one of 6 that the owner has loaded."""

    def put_together(**more: Any) -> tuple[Machine, Owner]:
        models = []
        for index, name in enumerate("ab"):
            write_model(tmp_path / f"{name}.safetensors", 4 * MIB, seed=index)
            models.append(spec(tmp_path / f"{name}.safetensors", device_id=DEVICE))
        theirs = {"declared_bytes": 6 * MIB, "device_id": DEVICE} | more.pop("theirs", {})
        models.append(ModelSpec("theirs", **theirs))
        machine = Machine(tmp_path, SimulatedDevice(10 * MIB), models=tuple(models), **more)
        owner = Owner(machine)
        owner.load()
        return machine, owner

    return put_together


def state(machine: Machine, model_id: str) -> ModelState:
    return machine.manager.models.get(model_id).state


def asked_for(machine: Machine) -> list[UnloadRequested]:
    return machine.told(UnloadRequested)


def test_what_an_owner_says_is_recorded_and_takes_nothing(make: Make) -> None:
    """An external model is counted as its owner says and takes no headroom of ours."""
    machine, owner = make()
    status = machine.manager.pressure.status(DEVICE)
    assert (status.external_bytes, status.model_bytes, status.available_bytes) == (6 * MIB, 0, 4 * MIB)
    machine.check()
    owner.unload()
    assert machine.manager.pressure.status(DEVICE).external_bytes == 0
    assert state(machine, "theirs") is ModelState.UNLOADED
    assert [row.reason for row in machine.history.evictions((DEVICE,), 60_000)] == [
        "unloaded: its owner says so"
    ]
    again = machine.models.unloader.unload("theirs", machine.token(), by_owner=True)
    assert (again.freed_bytes, again.returned_bytes) == (0, None)
    machine.close()


def test_an_owner_is_asked_where_own_models_are_not_enough(make: Make) -> None:
    """Where none is dearer than another own models go first; owners are asked only where those are too little."""
    machine, owner = make()
    machine.on_unload_requested = owner.unload
    machine.load("a")
    machine.pass_time(NS_PER_S)
    loaded = machine.load("b")
    assert ([row.model_id for row in loaded.models_unloaded], owner.asked) == (["a"], 0)
    made = machine.memory.allocations.allocate(
        machine.memory.allocations.new_id(),
        AllocationRequest(DEVICE, 8 * MIB),
        machine.token(),
        make_room=True,
    )
    assert [row.model_id for row in made.models_unloaded] == ["theirs", "b"]
    assert made.models_unloaded[0].returned_bytes is None
    assert [(data.size_bytes, data.wait_ms) for data in asked_for(machine)] == [(6 * MIB, 5000)]
    machine.check()
    machine.close()


def test_a_cheaper_owner_is_asked_before_own_models_go(make: Make) -> None:
    """One that was not used for long costs less than a model that was loaded just now: it goes, and that stays."""
    machine, owner = make()
    machine.on_unload_requested = owner.unload
    machine.pass_time(500 * NS_PER_S)
    machine.load("a")
    machine.manager.models.get("a").load_ms = 4000  # the clock stands: as if it had been measured
    machine.manager.models.get("theirs").load_ms = 4000
    made = machine.memory.allocations.allocate(
        machine.memory.allocations.new_id(),
        AllocationRequest(DEVICE, 4 * MIB),
        machine.token(),
        make_room=True,
    )
    assert [row.model_id for row in made.models_unloaded] == ["theirs"]
    assert (owner.asked, state(machine, "a")) == (1, ModelState.LOADED)
    rows = machine.memory.consumers.status((DEVICE,), None)
    assert [row.consumer_id for row in rows] == ["model:a", f"pool:{DEVICE}"]
    machine.check()


@pytest.mark.parametrize("answer", ["silent", "keeps it", "nobody listens"])
def test_an_owner_that_does_not_give_is_named_and_nothing_else_goes(make: Make, answer: str) -> None:
    """Where an owner keeps its model, the error names it and no model of ours went in vain."""
    machine, owner = make()
    machine.load("a")
    machine.listening = answer != "nobody listens"
    if answer == "keeps it":
        machine.on_unload_requested = owner.keep
    before = machine.manager.pressure.status(DEVICE)
    with pytest.raises(OutOfMemoryError) as refused:
        machine.memory.allocations.allocate(
            machine.memory.allocations.new_id(),
            AllocationRequest(DEVICE, 8 * MIB),
            machine.token(),
            make_room=True,
        )
    assert refused.value.details["owners_asked"] == ["theirs"]
    assert refused.value.details["evictable_bytes"] == 4 * MIB
    said = {
        "silent": "has not unloaded it within 5000 ms",
        "keeps it": "its owner keeps it",
        "nobody listens": "nobody listens for memory.unload_requested",
    }
    assert said[answer] in refused.value.message
    assert (state(machine, "a"), state(machine, "theirs")) == (ModelState.LOADED, ModelState.LOADED)
    assert machine.manager.pressure.status(DEVICE) == before
    machine.check()


def test_nobody_is_asked_where_it_would_not_help_or_may_not(make: Make) -> None:
    """Too little, pinned or excluded: no owner is asked."""
    machine, owner = make()
    with pytest.raises(OutOfMemoryError) as refused:
        machine.memory.allocations.allocate(
            machine.memory.allocations.new_id(),
            AllocationRequest(DEVICE, 11 * MIB),
            machine.token(),
            make_room=True,
        )
    assert "owners_asked" not in refused.value.details
    machine.load("theirs", pin=True)
    with pytest.raises(OutOfMemoryError):
        machine.memory.allocations.allocate(
            machine.memory.allocations.new_id(),
            AllocationRequest(DEVICE, 8 * MIB),
            machine.token(),
            make_room=True,
        )
    with pytest.raises(ModelBusyError, match="pinned"):
        machine.models.unloader.unload("theirs", machine.token())
    assert (asked_for(machine), owner.asked) == ([], 0)


def test_plans_count_only_what_the_worker_holds(make: Make) -> None:
    """A plan promises nothing that another process would have to give."""
    machine, _ = make()
    plan = machine.memory.models.plan(
        (WayToPlan("w", 8 * MIB, DEVICE),), machine.token(), allow_eviction=True
    )
    assert (plan.selected, plan.candidates[0].shortfall_bytes) == (None, 4 * MIB)
    assert machine.booked.plans.evictable_bytes(DEVICE) == 0


@pytest.mark.parametrize("owner_does", ["unload", "keep"])
def test_optimizing_asks_and_reports_what_came_of_it(make: Make, owner_does: str) -> None:
    """An owner's yes counts as freed on its word; its no is a reason."""
    machine, owner = make()
    machine.load("a")
    machine.on_unload_requested = getattr(owner, owner_does)
    demand = ModelDemand(min_bytes=8 * MIB)
    dry = machine.memory.models.optimize(
        (DEVICE,), ModelDemand(min_bytes=8 * MIB, dry_run=True), machine.token()
    )
    assert (dry.goal_met, owner.asked) == (False, 0)
    done = machine.memory.models.optimize((DEVICE,), demand, machine.token())
    assert owner.asked == 1
    if owner_does == "unload":
        assert [row.model_id for row in done.models_unloaded] == ["theirs", "a"]
        assert (done.memory_freed_bytes, done.memory_returned_bytes, done.goal_met) == (10 * MIB, None, True)
    else:
        assert (done.models_unloaded, done.goal_met) == ((), False)
        kept = {row.model_id: row.reason for row in done.models_kept}
        assert kept["theirs"] == "stays: its owner keeps it"
        assert "would not help" in kept["a"]
    machine.check()


def test_the_time_of_an_optimization_bounds_the_wait(make: Make) -> None:
    """An owner is waited for no longer than the optimization may take."""
    machine, _ = make()
    demand = ModelDemand(min_bytes=MIB, max_time_ms=30)
    done = machine.memory.models.optimize((DEVICE,), demand, machine.token())
    assert (asked_for(machine)[0].wait_ms, done.optimization_time_ms, done.goal_met) == (30, 30, False)


def test_clearing_asks_every_owner(make: Make) -> None:
    """``clear`` asks owners too; one that keeps its model is named."""
    machine, owner = make()
    kept = machine.memory.relief.clear((DEVICE,), ClearType.MODELS, None, machine.token(), force=False).kept
    assert [row.id for row in kept] == ["theirs"]
    machine.on_unload_requested = owner.unload
    cleared = machine.memory.relief.clear((DEVICE,), ClearType.MODELS, None, machine.token(), force=False)
    assert [row.model_id for row in cleared.models_unloaded] == ["theirs"]
    machine.close()


def test_an_idle_one_is_asked_for_once_and_again_after_its_next_use(make: Make) -> None:
    """A keep-alive that ran out is one question, until the model is used again."""
    machine, owner = make(theirs={"keep_alive_ns": 10 * NS_PER_S})
    machine.pass_time(11 * NS_PER_S)
    assert [data.wait_ms for data in asked_for(machine)] == [None]
    assert "idle past its keep-alive of 10000 ms" in asked_for(machine)[0].reason
    machine.pass_time(60 * NS_PER_S)
    assert len(asked_for(machine)) == 1
    machine.load("theirs")
    machine.on_unload_requested = owner.unload
    machine.pass_time(11 * NS_PER_S)
    assert (len(asked_for(machine)), state(machine, "theirs")) == (2, ModelState.UNLOADED)


def test_nothing_of_it_can_be_used_moved_or_counted_past_the_largest_number(make: Make) -> None:
    """An external model cannot be leased or offloaded, and sums stay within 64 bits."""
    machine, _ = make()
    with pytest.raises(UnsupportedError), Models(machine.models, machine.clock).use("theirs"):
        pass
    with pytest.raises(UnsupportedError):
        machine.models.unloader.unload("theirs", machine.token(), UnloadMode.OFFLOAD)
    with pytest.raises(InvalidRequestError):
        machine.models.unloader.unload("a", machine.token(), by_owner=True)
    before = machine.manager.pressure.status(DEVICE).external_bytes
    machine.manager.models.get("theirs").spec = ModelSpec(
        "theirs", declared_bytes=INT64_MAX, device_id=DEVICE
    )
    machine.load("theirs")  # where it is, it counts as before
    machine.allocate("cpu", 1)
    with pytest.raises(LimitExceededError):
        machine.load("theirs", device_id="cpu")
    assert machine.manager.pressure.status(DEVICE).external_bytes == before


def test_what_others_hold_outlives_a_lost_device_here(make: Make) -> None:
    """A device lost to this process is not lost to a model's owner."""
    machine, _ = make()
    machine.manager.lose_device(DEVICE, "unplugged")
    assert state(machine, "theirs") is ModelState.LOADED
    assert machine.manager.pressure.status(DEVICE).external_bytes == 6 * MIB


def test_an_answer_ends_the_wait_and_so_does_cancelling(make: Make) -> None:
    """With time that passes: the request waits for the owner, and not until the time is over."""
    machine, owner = make(clock=SystemClock())
    came = threading.Event()
    machine.on_unload_requested = lambda _model_id: came.set()
    rows: list[Any] = []
    waiting = threading.Thread(
        target=lambda: rows.append(machine.models.unloader.unload("theirs", machine.token())), daemon=True
    )
    waiting.start()
    assert came.wait(10)
    owner.unload()
    waiting.join(10)
    assert rows[0].freed_bytes == 6 * MIB
    owner.load()
    token = machine.token()
    machine.on_unload_requested = lambda _model_id: token.cancel()
    with pytest.raises(CancelledError):
        machine.models.unloader.unload("theirs", token)
    assert state(machine, "theirs") is ModelState.LOADED
    machine.check()


def test_an_owner_that_gave_in_vain_is_named(make: Make, tmp_path: Path) -> None:
    """Two were asked and only one gave: the request fails, and says what it has changed."""
    machine, owner = make()
    machine.manager.models._entries["stubborn"] = ModelEntry(
        ModelSpec("stubborn", declared_bytes=4 * MIB, device_id=DEVICE)
    )
    stubborn = Owner(machine, "stubborn", 4 * MIB)
    stubborn.load()
    machine.on_unload_requested = lambda each: owner.unload() if each == "theirs" else stubborn.keep(each)
    with pytest.raises(OutOfMemoryError) as refused:
        machine.memory.allocations.allocate(
            machine.memory.allocations.new_id(),
            AllocationRequest(DEVICE, 9 * MIB),
            machine.token(),
            make_room=True,
        )
    assert refused.value.executed is Executed.YES
    assert [row.model_id for row in refused.value.details["models_unloaded"]] == ["theirs"]
    assert refused.value.details["owners_asked"] == ["stubborn"]
    machine.check()


def test_a_deadline_leaves_time_to_act_on_the_answer(make: Make) -> None:
    """Half of what is left of a deadline is spent waiting for an owner."""
    machine, _ = make()
    token = CancelToken(machine.clock.now_ns, machine.clock.now_ns() + 3 * NS_PER_S)
    with pytest.raises(ModelBusyError, match="within 1500 ms"):
        machine.models.unloader.unload("theirs", token)
