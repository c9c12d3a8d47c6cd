"""Models in engine processes: measured, shrunk, unloaded with a receipt, lost and back; no mock, each a real process."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import pytest

from protocol.results import UnloadedModel
from protocol.vocabulary import ModelState, UnloadMode
from tests.rigs import engines
from tests.rigs.engines import MIB, Driver
from tests.unit.machine import Machine
from worker.backends.engines import process as engine_process
from worker.backends.engines.arrays import Segments
from worker.backends.engines.base import EngineLaunch
from worker.backends.engines.pool import Engines, NotOpenedError
from worker.backends.engines.process import EndedUnderOthersError, EngineProcess
from worker.backends.isolation.codec import RemoteError
from worker.backends.isolation.endings import Ending
from worker.backends.simulated import SimulatedDevice
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.consumers import Release
from worker.core.errors import (
    DeadlineExceededError,
    EngineLostError,
    ModelBusyError,
    ModelLoadFailedError,
    OutOfMemoryError,
    UnsupportedError,
)
from worker.core.events import ModelUnloaded
from worker.core.models import ModelSpec
from worker.loaders import registry
from worker.plugins._leases import Models
from worker.stream.work import Call
from worker.telemetry.system import SystemMemory
from worker.workers.gone import Gone

GIB = 2**30
NEAR = 3 * MIB
"""What a process's heap moves by beside what it was asked for."""

Make = Callable[..., Machine]

GPU = {"params": (("device", "sim:0"),)}


@pytest.fixture
def others() -> set[psutil.Process]:
    """Return the processes that this one has already: a session's rigs may have some."""
    return set(psutil.Process().children())


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Return what puts a machine together with models that say what their engine does."""
    monkeypatch.setitem(registry.BUILT_IN, "stand-in", ("tests.rigs.engines", "StandInLoader"))
    monkeypatch.setenv("PYTHONPATH", str(Path(engines.__file__).parents[2]))
    made: list[Machine] = []

    def put_together(
        more: dict[str, dict[str, Any]] | None = None, *, devices: tuple[SimulatedDevice, ...] = (),
        **models: dict[str, Any],
    ) -> Machine:  # fmt: skip
        specs = []
        for name, say in models.items():
            path = tmp_path / f"{name}.model"
            path.write_text(json.dumps({"bytes": 8 * MIB} | say))
            specs.append(ModelSpec(name, "stand-in", path, tmp_path, **((more or {}).get(name, {}))))
        shared = tmp_path / "shared"
        shared.mkdir(exist_ok=True)
        made.append(
            Machine(shared, *devices, models=tuple(specs), clock=SystemClock(), system=SystemMemory())
        )
        return made[-1]

    yield put_together
    for each in made:
        each.memory.close()


@pytest.fixture
def on_gpu(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Machine, Driver]]:
    """Return what puts a machine together whose models are on a device with a driver that lists processes."""

    def put_together(more: dict[str, Any] | None = None, **models: dict[str, Any]) -> tuple[Machine, Driver]:
        driver = Driver(tmp_path / "driver")
        said = {name: {"driver": str(driver.folder)} | each for name, each in models.items()}
        machine = make(dict.fromkeys(models, GPU | (more or {})), devices=(SimulatedDevice(GIB),), **said)
        monkeypatch.setattr(machine.backends["sim:0"], "processes", driver.processes)
        return machine, driver

    return put_together


def do(machine: Machine, model_id: str, work: Callable[..., Any], **data: Any) -> Any:
    token = data.pop("token", None) or machine.token()
    with Models(machine.models, machine.clock).use(model_id, token=token) as weights:
        return weights.do(work, data, Call(token, lambda _done, _total: None))


def unload(machine: Machine, model_id: str, mode: UnloadMode = UnloadMode.UNLOAD) -> UnloadedModel:
    return machine.memory.models.unload(model_id, mode, machine.token())


def entry(machine: Machine, model_id: str) -> Any:
    return machine.manager.models.get(model_id)


def counted(machine: Machine, device_id: str = "cpu") -> int:
    """Return what the ledger counts of models, and see that its parts agree."""
    ledger = machine.manager.devices.get(device_id).ledger
    assert ledger.model_bytes == sum(size for size, _, _ in ledger.weights.values())
    assert ledger.working_bytes == sum(working for _, _, working in ledger.weights.values())
    return ledger.model_bytes


def engine_works(machine: Machine) -> int:
    """Return how many calls work in the one engine process."""
    (process,) = machine.models.weights.engines._engines._processes.values()
    return process._working


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread or process does."""
    clock = SystemClock()
    end = clock.now_ns() + 60 * 10**9
    while not condition():
        assert clock.now_ns() < end
        CancelToken(clock.now_ns).wait(0.01)


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


def test_a_crash_is_answered_for_and_the_model_comes_back(make):
    """The caller hears how the process ended; the ledger has nothing of the model; its next use loads it."""
    machine = make(a={}, b={})
    machine.load("b")
    machine.load("a")
    both = counted(machine)
    with pytest.raises(EngineLostError, match="SIGABRT"):
        do(machine, "a", engines.crash)
    until(lambda: entry(machine, "a").state is ModelState.UNLOADED)
    assert counted(machine) == entry(machine, "b").residence.size_bytes < both
    assert "was lost" in entry(machine, "a").state_reason
    until(lambda: bool(machine.told(ModelUnloaded)))
    (told,) = machine.told(ModelUnloaded)
    assert told.eviction.model_id == "a"
    assert "SIGABRT" in told.eviction.reason
    assert told.eviction.returned_bytes is None  # the process is gone: what it had can't be measured
    do(machine, "a", engines.grow, bytes=0x1000)
    assert entry(machine, "a").state_reason is None
    assert entry(machine, "b").state is ModelState.LOADED


def test_a_process_that_dies_unused_takes_its_model_along(make):
    """Nobody has to ask for that to be noticed."""
    machine = make(a={})
    machine.load("a")
    psutil.Process(do(machine, "a", engines.grow, bytes=0x1000)).kill()
    until(lambda: entry(machine, "a").state is ModelState.UNLOADED)
    assert counted(machine) == 0
    assert machine.load("a").load_count == 2


def test_a_file_that_crashes_its_parser_twice_is_not_opened_again(make, tmp_path):
    """Until it is another file, or the models are read again; the reason is listed."""
    log = tmp_path / "log"
    machine = make(a={"opens": "crashes", "log": str(log)})
    for _ in range(2):
        with pytest.raises(ModelLoadFailedError, match="SIGABRT"):
            machine.load("a")
    with pytest.raises(ModelLoadFailedError, match="crashed its engine 2 times"):
        machine.load("a")
    assert len(log.read_text().splitlines()) == 2
    (row,) = machine.memory.models.rows()
    assert row.state is ModelState.FAILED
    assert "SIGABRT" in row.state_reason
    machine.memory.models.reload()
    assert entry(machine, "a").state is ModelState.UNLOADED
    for _ in range(2):
        with pytest.raises(ModelLoadFailedError):
            machine.load("a")
    assert len(log.read_text().splitlines()) == 4
    (tmp_path / "a.model").write_text(json.dumps({"bytes": MIB}))
    assert machine.load("a").state is ModelState.LOADED
    assert counted(machine) == entry(machine, "a").residence.size_bytes


def test_a_load_that_hangs_ends_with_its_request(others, make):
    """The process ends with it, and what was held for the model is given back."""
    machine = make(a={"opens": "hangs"})
    token = CancelToken(machine.clock.now_ns, machine.clock.now_ns() + 10**9)
    with pytest.raises(DeadlineExceededError):
        machine.load("a", token=token)
    assert counted(machine) == 0
    assert machine.manager.devices.get("cpu").ledger.reserved_bytes == 0
    until(lambda: not set(psutil.Process().children()) - others)


def test_work_that_hangs_is_ended_after_its_request(make, tmp_path, monkeypatch):
    """Who waits is answered at once; the process has a while to stop, and then goes with its model."""
    monkeypatch.setattr(engine_process, "WORK_S", 0.2)
    machine = make(a={})
    machine.load("a")
    token, begun = machine.token(), tmp_path / "begun"
    cancelling = Canceller(token, begun)
    with pytest.raises(Exception, match="cancelled"), cancelling:
        do(machine, "a", engines.hang, begun=str(begun), token=token)
    until(lambda: entry(machine, "a").state is ModelState.UNLOADED)
    assert "did not stop" in entry(machine, "a").state_reason
    assert machine.load("a").load_count == 2
    assert entry(machine, "a").in_use == 0


def test_a_model_is_in_use_for_as_long_as_work_on_it_goes_on(make, tmp_path):
    """Work that its request gave up is work: what is loaded stays until that has ended, whoever asks for its memory."""
    machine = make(a={})
    machine.load("a")
    token, begun, go = machine.token(), tmp_path / "begun", tmp_path / "go"
    with pytest.raises(Exception, match="cancelled"), Canceller(token, begun):
        do(machine, "a", engines.stop_late, begun=str(begun), go=str(go), token=token)
    for mode in (UnloadMode.UNLOAD, UnloadMode.SHRINK):
        with pytest.raises(ModelBusyError):
            unload(machine, "a", mode)
    assert entry(machine, "a").in_use == 1
    assert engine_works(machine) == 1
    go.touch()
    until(lambda: entry(machine, "a").in_use == 0)
    assert unload(machine, "a").mode is UnloadMode.UNLOAD


def test_memory_of_a_call_that_was_given_up_is_taken_back(make, tmp_path):
    """What was sent may be read until the work stops; then it is given up, although no caller waited for that."""
    machine = make(a={})
    machine.load("a")
    (process,) = machine.models.weights.engines._engines._processes.values()
    token, begun, go = machine.token(), tmp_path / "begun", tmp_path / "go"
    with pytest.raises(Exception, match="cancelled"), Canceller(token, begun):
        do(machine, "a", engines.stop_late, begun=str(begun), go=str(go), sent=bytes(MIB), token=token)
    assert len(process._segments._under_way) == 1
    go.touch()
    until(lambda: not process._segments._under_way)


def test_a_result_that_no_caller_waits_for_is_taken_back(make, tmp_path):
    """It lies in memory that the engine's process shares: nothing of it stays there once the call is answered."""
    machine = make(a={})
    machine.load("a")
    token, begun, go = machine.token(), tmp_path / "begun", tmp_path / "go"
    with pytest.raises(Exception, match="cancelled"), Canceller(token, begun):
        do(machine, "a", engines.answer_late, begun=str(begun), go=str(go), bytes=MIB, token=token)
    (process,) = machine.models.weights.engines._engines._processes.values()
    go.touch()
    until(lambda: not process._working)
    until(lambda: do(machine, "a", engines.sent) == 0)
    assert len(do(machine, "a", engines.answer_late, begun=str(begun), go=str(go), bytes=MIB)) == MIB
    until(lambda: do(machine, "a", engines.sent) == 0)


def test_a_result_that_can_not_be_sent_is_taken_back(make, tmp_path):
    """Its arrays lie in shared memory by then: also where no caller waits for it any more."""
    machine = make(a={})
    machine.load("a")
    with pytest.raises(RemoteError, match="complex"):
        do(machine, "a", engines.answer_in_kind, bytes=MIB)
    until(lambda: do(machine, "a", engines.sent) == 0)
    token, begun, go = machine.token(), tmp_path / "begun", tmp_path / "go"
    with pytest.raises(Exception, match="cancelled"), Canceller(token, begun):
        do(machine, "a", engines.answer_in_kind, begun=str(begun), go=str(go), bytes=MIB, token=token)
    (process,) = machine.models.weights.engines._engines._processes.values()
    go.touch()
    until(lambda: not process._working)
    until(lambda: do(machine, "a", engines.sent) == 0)


def test_a_model_that_went_unnoticed_is_unloaded_without_a_figure(make):
    """What its process gave back as it ended was not measured: nothing of it is kept, nor known to be returned."""
    machine = make(a={})
    machine.load("a")
    size = counted(machine)
    machine.models.weights.engines._engines._places.clear()
    row = unload(machine, "a")
    assert (row.claimed_bytes, row.returned_bytes, row.kept_bytes) == (size, None, None)


def test_a_model_whose_group_ends_again_and_again_under_it_is_refused(tmp_path, monkeypatch):
    """After three tries, and its file is not the one that is blamed."""
    path = tmp_path / "a.model"
    path.touch()
    tries = []

    def ends(*_):
        tries.append(1)
        raise EndedUnderOthersError(Ending("process 5 died of SIGSEGV", ran_out=False))

    monkeypatch.setattr(EngineProcess, "load", ends)
    pool = Engines(*[lambda *_: None] * 3)
    launch = EngineLaunch("nowhere:Engine", path, {}, group="together")
    token = CancelToken(SystemClock().now_ns)
    for _ in range(2):
        with pytest.raises(NotOpenedError, match="3 times .* SIGSEGV; load it again"):
            pool.load("a", "handle", launch, "cpu", token)
    assert (len(tries), pool.quarantined("a", launch)) == (6, None)
    pool.close()


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


@pytest.mark.parametrize(("reopens", "why"), [("fails", "its file is gone"), ("lacks", "'graph'")])
def test_a_model_that_can_not_be_opened_anew_is_lost_and_answered_for(make, reopens, why):
    """Shrinking it found that out: it is told of, nothing of it is counted, and its next use loads it."""
    machine = make(a={"reopens": reopens})
    machine.load("a")
    pid = do(machine, "a", engines.grow, bytes=32 * MIB)
    size = counted(machine)
    row = unload(machine, "a", UnloadMode.SHRINK)
    assert (row.mode, row.freed_bytes, row.returned_bytes) == (UnloadMode.UNLOAD, size, None)
    assert why in row.reason
    assert (entry(machine, "a").state, counted(machine)) == (ModelState.UNLOADED, 0)
    assert why in entry(machine, "a").state_reason
    (told,) = machine.told(ModelUnloaded)
    assert (told.eviction.model_id, told.eviction.freed_bytes) == ("a", size)
    assert not psutil.pid_exists(pid)
    assert do(machine, "a", engines.grow, bytes=0x1000) != pid


def test_a_model_of_a_group_that_can_not_be_opened_anew_leaves_the_others(make):
    """Its process goes on, without it."""
    group = {"engine_group": "together"}
    machine = make({"a": group, "b": group}, a={"reopens": "fails", "closes": "fails"}, b={})
    machine.load("a")
    machine.load("b")
    pid = do(machine, "a", engines.grow, bytes=32 * MIB)
    row = unload(machine, "a", UnloadMode.SHRINK)
    assert "its file is gone" in row.reason
    assert entry(machine, "a").state is ModelState.UNLOADED
    assert do(machine, "b", engines.grow, bytes=0x1000) == pid


def test_a_process_that_dies_for_want_of_memory_is_out_of_memory(make):
    """As its last words say: the caller may make headroom and try again, which ``device_unavailable`` would not tell."""
    machine = make(a={})
    machine.load("a")
    with pytest.raises(OutOfMemoryError, match="ran out of memory: .*bad_alloc"):
        do(machine, "a", engines.die_of_want)
    until(lambda: entry(machine, "a").state is ModelState.UNLOADED)
    assert "bad_alloc" in entry(machine, "a").state_reason


def test_a_model_that_is_loaded_as_its_group_crashes_is_not_blamed(make, tmp_path):
    """Another model's work ended the process in which it was being opened: it is opened in the next."""
    begun, go = tmp_path / "begun", tmp_path / "go"
    group = {"engine_group": "together"}
    machine = make({"a": group, "b": group}, a={}, b={"opens": "waits", "begun": str(begun), "go": str(go)})
    machine.load("a")
    loading = Thread(target=lambda: machine.load("b"))
    loading.start()
    with pytest.raises(EngineLostError):
        do(machine, "a", engines.crash_after, after=str(begun))
    go.touch()
    loading.join()
    assert entry(machine, "b").state is ModelState.LOADED
    assert not machine.models.weights.engines._engines._crashes


def test_a_process_that_has_just_ended_is_none(make, monkeypatch):
    """Before its end is told of, too: the next model gets another, and those that were in it are told of."""
    told = Event()
    ended = EngineProcess.ended

    def late(self, child):
        told.wait(60)
        return ended(self, child)

    monkeypatch.setattr(EngineProcess, "ended", late)
    group = {"engine_group": "together"}
    machine = make({"a": group, "b": group}, a={}, b={})
    machine.load("a")
    pid = do(machine, "a", engines.grow, bytes=0x1000)
    (process,) = machine.models.weights.engines._engines._processes.values()
    child = process._child
    psutil.Process(pid).kill()
    until(lambda: child.end is not None)
    try:
        machine.load("b")
    finally:
        told.set()
    until(lambda: entry(machine, "a").state is ModelState.UNLOADED)
    assert entry(machine, "b").state is ModelState.LOADED
    assert do(machine, "b", engines.grow, bytes=0x1000) != pid


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


def test_a_segment_is_used_again_after_a_smaller_one():
    """Of two that are free the larger is kept: making one costs as much as two copies of what it holds."""
    segments, places = Segments(), []
    for size in (16, MIB, MIB, 16, MIB):
        _, arrays = segments.send(bytes(size))
        places.append(arrays["place"]["name"])
        segments.done(arrays)
    assert len(set(places[1:])) == 1
    segments.clear()


class Canceller:
    """Cancels a token once a file is there."""

    def __init__(self, token: CancelToken, begun: Path) -> None:
        self._thread = Thread(target=lambda: (until(begun.exists), token.cancel()))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._thread.join()


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


def test_a_model_on_a_device_is_counted_with_what_the_driver_says_its_process_holds(on_gpu):
    """Not with its file's estimate, nor with what the process takes of the machine's memory; work's growth there, too."""
    machine, driver = on_gpu(a={"bytes": 8 * MIB, "device_bytes": 100 * MIB})
    loaded = machine.load("a")
    assert (loaded.device_id, loaded.measured_bytes) == ("sim:0", 100 * MIB)
    assert abs(loaded.measured_process_bytes - 8 * MIB) < NEAR
    assert (counted(machine, "sim:0"), counted(machine)) == (100 * MIB, 0)
    do(machine, "a", engines.grow, bytes=16 * MIB)  # of the machine's memory, where it is not counted
    pid = do(machine, "a", engines.grow_there, bytes=40 * MIB)
    (row,) = machine.memory.models.rows()
    assert (row.measured_bytes, row.working_bytes) == (100 * MIB, 40 * MIB)
    assert counted(machine, "sim:0") == 140 * MIB
    assert driver.asked == [(pid,)] * len(driver.asked)
    shrunk = unload(machine, "a", UnloadMode.SHRINK)
    assert (shrunk.claimed_bytes, shrunk.returned_bytes) == (40 * MIB, 40 * MIB)
    assert counted(machine, "sim:0") == 100 * MIB
    row = unload(machine, "a")
    assert (row.claimed_bytes, row.returned_bytes, row.kept_bytes) == (100 * MIB, 100 * MIB, 0)
    assert [each.step for each in row.steps][-1] == "free pages went back to the system"
    assert counted(machine, "sim:0") == 0


def test_what_a_library_keeps_of_a_device_comes_back_with_its_process(on_gpu):
    """The driver shows what is left after the library let go, as with the machine's memory."""
    machine, _ = on_gpu(a={"bytes": MIB, "device_bytes": 100 * MIB, "keeps": 0.5})
    machine.load("a")
    row = unload(machine, "a")
    assert [each.returned_bytes for each in row.steps] == [50 * MIB, 0, 50 * MIB]
    assert row.steps[-1].step == "its process ended"
    assert (row.claimed_bytes, row.returned_bytes, row.kept_bytes) == (100 * MIB, 100 * MIB, 0)


@pytest.mark.parametrize(
    "driver_says", [{"lists": False}, {"says_bytes": False}, {"processes_listed": False}], ids=str
)
def test_where_the_driver_does_not_say_a_model_is_counted_by_its_file(on_gpu, driver_says):
    """It lists no processes, no bytes of this one, or not this one: the receipt's figures are unknown, and the process ends."""
    machine, driver = on_gpu(a={"bytes": 8 * MIB, "device_bytes": 100 * MIB})
    driver.lists = driver_says.get("lists", True)
    driver.says_bytes = driver_says.get("says_bytes", True)
    if "processes_listed" in driver_says:
        driver.folder = driver.folder.parent / "none"
        driver.folder.mkdir()
    loaded = machine.load("a")
    assert loaded.measured_bytes == 8 * MIB
    assert counted(machine, "sim:0") == 8 * MIB
    pid = do(machine, "a", engines.grow_there, bytes=40 * MIB)
    (row,) = machine.memory.models.rows()
    assert (row.working_bytes, counted(machine, "sim:0")) == (0, 8 * MIB)
    row = unload(machine, "a")
    assert (row.claimed_bytes, row.returned_bytes, row.kept_bytes) == (8 * MIB, None, None)
    assert row.steps[-1].step == "its process ended"
    assert not psutil.pid_exists(pid)
    assert counted(machine, "sim:0") == 0


def test_models_of_a_group_on_two_devices_are_measured_each_where_it_is(make, tmp_path, monkeypatch):
    """One process, two memories: what one model takes of the machine's is none of the other's growth."""
    folder = tmp_path / "driver"
    group = {"engine_group": "together"}
    machine = make(
        {"a": group | GPU, "b": group | {"params": (("device", "cpu"),)}}, devices=(SimulatedDevice(GIB),),
        a={"bytes": MIB, "driver": str(folder), "device_bytes": 64 * MIB}, b={"bytes": 32 * MIB},
    )  # fmt: skip
    monkeypatch.setattr(machine.backends["sim:0"], "processes", Driver(folder).processes)
    machine.load("a")
    b = machine.load("b")
    assert abs(b.measured_bytes - 32 * MIB) < NEAR
    do(machine, "a", engines.grow_there, bytes=16 * MIB)
    do(machine, "b", engines.grow, bytes=8 * MIB)
    rows = {row.model_id: row for row in machine.memory.models.rows()}
    assert rows["a"].working_bytes == 16 * MIB
    assert abs(rows["b"].working_bytes - 8 * MIB) < NEAR
    assert counted(machine, "sim:0") == 80 * MIB
    assert unload(machine, "a").returned_bytes == 80 * MIB


def test_what_an_engine_has_is_not_offloaded_nor_moved(make):
    """It is where its params say; shrinking and unloading are what there is."""
    machine = make(a={})
    machine.load("a")
    with pytest.raises(UnsupportedError, match="can be shrunk, or unloaded"):
        unload(machine, "a", UnloadMode.OFFLOAD)
    assert machine.load("a").state is ModelState.LOADED


def test_a_library_that_finds_no_memory_is_out_of_memory(make):
    """Opening and working alike: the file is not to blame, so no reason stays with the model, and it may be retried."""
    machine = make(a={"opens": "lacks memory"}, b={})
    with pytest.raises(OutOfMemoryError, match="its engine ran out of memory: insufficient memory"):
        machine.load("a")
    assert entry(machine, "a").state_reason is None
    assert counted(machine) == 0
    with pytest.raises(OutOfMemoryError, match="work on model 'b' failed: .*Failed to allocate memory"):
        do(machine, "b", engines.lack_memory)
    assert entry(machine, "b").state is ModelState.LOADED


def test_what_work_raises_is_the_callers(make):
    """An error of the plugin's own is none of the engine's."""
    machine = make(a={})
    with pytest.raises(KeyError, match="colour"):
        do(machine, "a", engines.fail, key="colour")
    assert entry(machine, "a").state is ModelState.LOADED


def test_a_result_that_no_message_can_hold_is_an_error(make):
    """Its caller is answered, and so is the next."""
    machine = make(a={})
    machine.load("a")
    token = CancelToken(machine.clock.now_ns, machine.clock.now_ns() + 10 * 10**9)
    with pytest.raises(RemoteError, match="complex"):
        do(machine, "a", engines.answer_in_kind, token=token)
    assert do(machine, "a", engines.grow, bytes=0x1000) > 0


def test_a_session_is_found_in_its_process_only(make):
    """A lease here says where to go."""
    machine = make(a={})
    with (
        Models(machine.models, machine.clock).use("a") as weights,
        pytest.raises(TypeError, match="add_model_action"),
    ):
        _ = weights.session


def test_the_end_of_the_worker_ends_its_engines(others, make):
    """None outlives it, and none is started any more."""
    machine = make(a={})
    machine.load("a")
    machine.memory.close()
    until(lambda: not set(psutil.Process().children()) - others)
    with pytest.raises(ModelLoadFailedError, match="the worker ends"):
        machine.load("a")


def test_what_an_engine_keeps_is_a_consumer_and_goes_before_any_model(make):
    """It is listed, priced, given back where enough, and others get it: it is not kept free for the model."""
    machine = make(a={"bytes": 8 * MIB}, b={"bytes": 8 * MIB})
    machine.load("a")
    machine.load("b")
    do(machine, "a", engines.grow, bytes=48 * MIB)
    consumers = machine.memory.consumers
    row, _ = consumers.status(("cpu",), "engine")
    assert (row.consumer_id, row.device_id, row.in_use_bytes) == ("engine:a", "cpu", 0)
    assert abs(row.held_bytes - 48 * MIB) < NEAR
    plan = machine.booked.plans.plan_releases("cpu", 32 * MIB, consumers.quotes("cpu"))
    (release,) = [each for each in plan.releases if each.kind == "engine"]
    assert (release.consumer_id, plan.eviction.victims) == ("engine:a", ())
    gone = Gone()
    assert consumers.release((release,), "cpu", "tests", machine.token(), gone) == {}
    (given,) = gone.released
    assert abs(given.claimed_bytes - 48 * MIB) < NEAR
    assert entry(machine, "a").state is ModelState.LOADED
    assert machine.manager.devices.get("cpu").ledger.working_bytes == 0
    assert counted(machine) < 16 * MIB + 2 * NEAR


def test_what_an_engine_keeps_is_in_use_with_its_model(make):
    """A leased model's engine is not asked; one that came into use meanwhile gives nothing, and nothing fails."""
    machine = make(a={})
    machine.load("a")
    do(machine, "a", engines.grow, bytes=16 * MIB)
    consumers = machine.memory.consumers
    (before,) = [each for each in consumers.quotes("cpu") if each.kind == "engine"]
    release = Release("engine:a", "engine", 1, 1, 0.0, before.offers, "")
    with Models(machine.models, machine.clock).use("a"):
        (quote,) = [each for each in consumers.quotes("cpu") if each.kind == "engine"]
        assert quote.holding.spare_bytes == 0
        refused = consumers.release((release,), "cpu", "tests", machine.token(), Gone())
    assert refused == {"engine:a": "it gave nothing back"}
    assert entry(machine, "a").footprint.working_bytes > 8 * MIB


def test_an_opening_that_hangs_is_ended_though_its_request_waits(make, monkeypatch):
    """No library takes so long: the process is killed, and says so."""
    monkeypatch.setattr(engine_process, "OPEN_S", 0.5)
    machine = make(a={"opens": "hangs"})
    with pytest.raises(ModelLoadFailedError, match=r"did not answer 'work' within 0\.5 s"):
        machine.load("a")
    assert counted(machine) == 0
