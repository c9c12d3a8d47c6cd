"""Models in engine processes: measured, shrunk, and unloaded with a receipt; no mock, each a real process."""

import os

import psutil
import pytest

from protocol.vocabulary import ModelState, UnloadMode
from tests.rigs import engines
from tests.rigs.engines import MIB
from tests.unit.workers.engine_machines import NEAR, counted, do, entry, make, others, unload, until
from worker.core.errors import ModelBusyError, ModelLoadFailedError, UnsupportedError
from worker.core.events import ModelUnloaded
from worker.plugins._leases import Models

__all__ = ["make", "others"]


def test_a_model_is_counted_with_what_its_process_grew_by(make):
    """The library and the interpreter are none of it; work that leaves memory behind is, as working memory."""
    machine = make(a={"bytes": 24 * MIB})
    loaded = machine.load("a")
    assert abs(loaded.measured_bytes - 24 * MIB) < NEAR
    assert loaded.working_bytes == 0
    assert counted(machine) == loaded.measured_bytes
    pid = do(machine, "a", engines.grow, bytes=40 * MIB)
    assert pid != os.getpid()
    (row,) = machine.memory.models.rows()
    assert abs(row.working_bytes - 40 * MIB) < NEAR
    assert row.measured_bytes == loaded.measured_bytes
    assert counted(machine) == loaded.measured_bytes + row.working_bytes


def test_the_most_that_a_model_ever_grew_by_is_part_of_what_it_needs_next_time(make):
    """It is held when it is loaded again, and kept free while the model has less than that."""
    machine = make(a={"bytes": 8 * MIB})
    machine.load("a")
    do(machine, "a", engines.grow, bytes=32 * MIB)
    unload(machine, "a")
    assert counted(machine) == 0
    _, needed = machine.models.placement.requirement("a", None, machine.token())
    assert abs(needed - 40 * MIB) < 2 * NEAR
    machine.load("a")
    kept = machine.manager.devices.get("cpu").ledger.working_bytes
    assert abs(kept - 32 * MIB) < NEAR
    do(machine, "a", engines.grow, bytes=32 * MIB)
    assert machine.manager.devices.get("cpu").ledger.working_bytes < NEAR


def test_unloading_says_what_came_back_by_which_step(make):
    """A library that lets go keeps its process; the receipt is what the system shows."""
    machine = make(a={"bytes": 64 * MIB})
    machine.load("a")
    pid = do(machine, "a", engines.grow, bytes=64 * MIB)
    before = psutil.Process(pid).memory_full_info().uss
    row = unload(machine, "a")
    after = psutil.Process(pid).memory_full_info().uss
    assert abs(row.returned_bytes - (before - after)) < 0.02 * (before - after)
    assert abs(row.claimed_bytes - 128 * MIB) < NEAR
    assert row.kept_bytes == max(0, row.claimed_bytes - row.returned_bytes)
    assert [each.step for each in row.steps] == [
        "the engine dropped the model",
        "free pages went back to the system",
    ]
    assert sum(each.returned_bytes for each in row.steps) == row.returned_bytes
    assert row.claimed_bytes == row.freed_bytes
    assert row.process_returned_bytes is None
    assert counted(machine) == 0
    assert machine.load("a").state is ModelState.LOADED
    assert do(machine, "a", engines.grow, bytes=0x1000) == pid


def test_a_library_that_keeps_its_memory_loses_its_process(make):
    """Where less than 95 % of what a model took came back, the process ends, and that returns the rest."""
    machine = make(a={"bytes": 64 * MIB, "keeps": 0.98})
    machine.load("a")
    pid = do(machine, "a", engines.grow, bytes=0x1000)
    before = psutil.Process(pid).memory_full_info().uss
    row = unload(machine, "a")
    assert not psutil.pid_exists(pid)
    assert row.steps[-1].step == "its process ended"
    assert row.steps[-1].returned_bytes > 0.9 * 64 * MIB
    assert row.kept_bytes == 0
    assert abs(row.returned_bytes - 64 * MIB) < NEAR  # the interpreter's bytes are no model's
    assert sum(each.returned_bytes for each in row.steps) == row.returned_bytes
    all_of_it = row.returned_bytes + row.process_returned_bytes
    assert abs(all_of_it - before) < 8 * MIB  # uss has the libraries' own pages, too
    assert do(machine, "a", engines.grow, bytes=0x1000) != pid


def test_shrinking_gives_working_memory_back_and_keeps_the_model(make):
    """What it took beside the model comes back, its cache too; the model is still loaded, in the same process."""
    machine = make(a={"bytes": 16 * MIB, "kv_bytes": 5 * MIB, "kv_bytes_per_token": 4096})
    machine.load("a")
    pid = do(machine, "a", engines.grow, bytes=48 * MIB)
    (row,) = machine.memory.models.rows()
    assert (row.kv_bytes, row.kv_bytes_per_token) == (5 * MIB, 4096)
    done = unload(machine, "a", UnloadMode.SHRINK)
    assert done.mode is UnloadMode.SHRINK
    assert abs(done.returned_bytes - 48 * MIB) < NEAR
    assert done.steps[0].step == "the engine gave working memory back"
    (row,) = machine.memory.models.rows()
    assert row.state is ModelState.LOADED
    assert row.working_bytes < NEAR
    assert row.kv_bytes == 0
    assert counted(machine) == row.measured_bytes + row.working_bytes
    assert not machine.told(ModelUnloaded)
    assert do(machine, "a", engines.grow, bytes=0x1000) == pid


@pytest.mark.parametrize("work", [0, 16 * MIB])
def test_a_model_that_gave_back_what_opening_it_took_is_counted_with_what_it_takes(make, work):
    """Everywhere alike, so that unloading it adds up; loading it takes all of it again, and that is what is held for it."""
    machine = make(a={"bytes": 16 * MIB, "spare": 24 * MIB, "keeps": 0.5})
    assert abs(machine.load("a").measured_bytes - 40 * MIB) < NEAR
    if work:
        do(machine, "a", engines.grow, bytes=work)
    done = unload(machine, "a", UnloadMode.SHRINK)
    assert abs(done.claimed_bytes - work) < NEAR
    assert abs(done.returned_bytes - work - 24 * MIB) < NEAR
    (row,) = machine.memory.models.rows()
    assert abs(row.measured_bytes - 16 * MIB) < NEAR
    assert row.measured_process_bytes == row.measured_bytes
    assert (
        counted(machine) == row.measured_bytes + row.working_bytes == entry(machine, "a").residence.size_bytes
    )
    do(machine, "a", engines.grow, bytes=8 * MIB)
    (row,) = machine.memory.models.rows()
    assert abs(row.working_bytes - 8 * MIB) < NEAR
    gone = unload(machine, "a")
    assert gone.steps[-1].step == "its process ended"
    assert abs(gone.returned_bytes - 24 * MIB) < NEAR
    assert (gone.kept_bytes, counted(machine)) == (0, 0)
    assert abs(gone.claimed_bytes - gone.returned_bytes) < NEAR
    _, needed = machine.models.placement.requirement("a", None, machine.token())
    assert abs(needed - 40 * MIB - max(work, 8 * MIB)) < 2 * NEAR
    assert abs(machine.load("a").measured_bytes - 40 * MIB) < NEAR


def test_what_one_model_of_a_group_takes_along_of_anothers_is_counted_for_neither(make):
    """More came back than the one was counted with: the other takes less by now, and what both return adds up."""
    group = {"engine_group": "together"}
    machine = make({"a": group, "b": group}, a={"bytes": 16 * MIB}, b={"bytes": 8 * MIB, "spare": 24 * MIB})
    machine.load("a")
    machine.load("b")
    both = counted(machine)
    first = unload(machine, "a")
    assert abs(first.returned_bytes - 40 * MIB) < NEAR
    assert abs(counted(machine) - 8 * MIB) < NEAR
    second = unload(machine, "b")
    assert second.kept_bytes < NEAR
    assert abs(second.claimed_bytes - 8 * MIB) < NEAR
    assert abs(first.returned_bytes + second.returned_bytes - both) < NEAR


def test_a_model_in_use_is_not_shrunk_and_one_without_an_engine_has_nothing_to_give(make):
    """Work may be going on in it."""
    machine = make(a={})
    with Models(machine.models, machine.clock).use("a"), pytest.raises(ModelBusyError):
        unload(machine, "a", UnloadMode.SHRINK)
    unload(machine, "a")
    row = unload(machine, "a", UnloadMode.SHRINK)
    assert (row.returned_bytes, row.reason) == (0, "nothing to shrink: it is unloaded")


def test_a_plan_shrinks_before_it_unloads(make):
    """Where working memory alone is enough, no model goes; where it is not, models do."""
    machine = make(a={"bytes": 8 * MIB}, b={"bytes": 8 * MIB})
    machine.load("a")
    machine.load("b")
    do(machine, "a", engines.grow, bytes=32 * MIB)
    plan = machine.booked.plans.plan("cpu", 16 * MIB)
    assert [(each.model_id, each.mode) for each in plan.victims] == [("a", UnloadMode.SHRINK)]
    plan = machine.booked.plans.plan("cpu", 40 * MIB)
    assert {each.mode for each in plan.victims} == {UnloadMode.UNLOAD}


def test_a_model_that_went_unnoticed_is_unloaded_without_a_figure(make):
    """What its process gave back as it ended was not measured: nothing of it is kept, nor known to be returned."""
    machine = make(a={})
    machine.load("a")
    size = counted(machine)
    machine.models.weights.engines._engines._places.clear()
    row = unload(machine, "a")
    assert (row.claimed_bytes, row.returned_bytes, row.kept_bytes) == (size, None, None)


def test_what_is_said_of_child_processes_is_of_now(make):
    """Right after a load, work and an unload, without a wait: the figure is as old as the answer says, 0 ms."""
    machine = make(a={"bytes": 48 * MIB})

    def children() -> int:
        machine.watch.refresh(("cpu",), max_age_ms=0, forced=True)
        return machine.manager.samples.latest("cpu").child_process_bytes

    before = children()
    machine.load("a")
    loaded = children()
    assert loaded - before > 48 * MIB
    do(machine, "a", engines.grow, bytes=32 * MIB)
    grown = children()
    assert abs(grown - loaded - 32 * MIB) < NEAR
    unload(machine, "a")
    assert grown - children() > 80 * MIB - NEAR


def test_a_process_without_models_is_handed_on_to_the_next_model(make):
    """Of whatever model it was: it has the library already, and one process is less than two."""
    machine = make(a={"bytes": 16 * MIB}, b={"bytes": 32 * MIB}, c={})
    machine.load("a")
    machine.load("c")
    pid, other = (do(machine, model_id, engines.grow, bytes=0x1000) for model_id in ("a", "c"))
    assert pid != other
    unload(machine, "a")
    loaded = machine.load("b")
    assert abs(loaded.measured_bytes - 32 * MIB) < NEAR
    assert do(machine, "b", engines.grow, bytes=0x1000) == pid
    machine.load("a")
    assert do(machine, "a", engines.grow, bytes=0x1000) not in {pid, other}
    psutil.Process(pid).kill()
    until(lambda: entry(machine, "b").state is ModelState.UNLOADED)
    assert entry(machine, "a").state is ModelState.LOADED
    unload(machine, "c")
    machine.load("b")
    assert do(machine, "b", engines.grow, bytes=0x1000) == other


def test_what_an_earlier_model_left_behind_is_not_the_next_ones(make):
    """It is in the process still, and no work of the next one took it."""
    machine = make(a={"bytes": 200 * MIB, "keeps": 0.04}, b={"bytes": 8 * MIB})
    machine.load("a")
    pid = do(machine, "a", engines.grow, bytes=0x1000)
    assert unload(machine, "a").kept_bytes > 6 * MIB
    machine.load("b")
    assert do(machine, "b", engines.grow, bytes=MIB) == pid
    (row,) = [each for each in machine.memory.models.rows() if each.model_id == "b"]
    assert abs(row.working_bytes - MIB) < NEAR


@pytest.mark.parametrize(
    ("say", "more", "cause"),
    [
        ({"opens": "fails"}, {}, "the file is of a make that nobody knows"),
        (
            {"opens": "raises"},
            {},
            (
                "its library refuses it: RuntimeError: [ShapeInferenceError] axis 7; see that it is whole, and one that the"
                " installed version runs"
            ),
        ),
        (
            {},
            {"params": (("engine", "no_such_library.engine:Engine"),)},
            "needs no_such_library, which is not installed: pip install it",
        ),
        (
            {},
            {"params": (("engine", "tests.rigs.broken_library:Engine"),)},
            (
                "its library can't be imported: OSError: libcudart.so.12: cannot open shared object file; mend it, as by"
                " pip install it --force-reinstall"
            ),
        ),
    ],
)
def test_what_can_not_be_opened_is_refused_with_its_cause(others, make, say, more, cause):
    """In words that stand by themselves; nothing of it is left, and no process either."""
    machine = make({"a": more}, a=say)
    with pytest.raises(ModelLoadFailedError) as caught:
        machine.load("a")
    assert caught.value.details["cause"] == cause
    assert counted(machine) == 0
    until(lambda: not set(psutil.Process().children()) - others)


def test_models_of_a_group_share_a_process(make):
    """One that goes leaves the others; what is counted for each is its own."""
    group = {"engine_group": "together"}
    machine = make({"a": group, "b": group}, a={"bytes": 16 * MIB}, b={"bytes": 32 * MIB, "keeps": 0.98})
    a, b = machine.load("a"), machine.load("b")
    assert abs(a.measured_bytes - 16 * MIB) < NEAR
    assert abs(b.measured_bytes - 32 * MIB) < NEAR
    pid = do(machine, "a", engines.grow, bytes=0x1000)
    assert do(machine, "b", engines.grow, bytes=0x1000) == pid
    row = unload(machine, "b")
    assert row.kept_bytes > 0.9 * 32 * MIB
    assert do(machine, "a", engines.grow, bytes=0x1000) == pid
    unload(machine, "a")
    assert not psutil.pid_exists(pid)


def test_what_an_engine_has_is_not_offloaded_nor_moved(make):
    """It is where its params say; shrinking and unloading are what there is."""
    machine = make(a={})
    machine.load("a")
    with pytest.raises(UnsupportedError, match="can be shrunk, or unloaded"):
        unload(machine, "a", UnloadMode.OFFLOAD)
    assert machine.load("a").state is ModelState.LOADED


def test_the_end_of_the_worker_ends_its_engines(others, make):
    """None outlives it, and none is started any more."""
    machine = make(a={})
    machine.load("a")
    machine.memory.close()
    until(lambda: not set(psutil.Process().children()) - others)
    with pytest.raises(ModelLoadFailedError, match="the worker ends"):
        machine.load("a")
