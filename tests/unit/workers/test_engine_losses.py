"""Models whose engine's process crashes, hangs or ends: answered for, and back where they can be; each a real process."""

import json
from threading import Event, Thread

import psutil
import pytest

from protocol.vocabulary import ModelState, UnloadMode
from tests.rigs import engines
from tests.rigs.engines import MIB
from tests.unit.workers.engine_machines import counted, do, entry, make, others, unload, until
from worker.backends.engines import process as engine_process
from worker.backends.engines.base import EngineLaunch
from worker.backends.engines.pool import Engines, NotOpenedError
from worker.backends.engines.process import EndedUnderOthersError, EngineProcess
from worker.backends.isolation.endings import Ending
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.errors import DeadlineExceededError, EngineLostError, ModelLoadFailedError, OutOfMemoryError
from worker.core.events import ModelUnloaded

__all__ = ["make", "others"]


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


def test_an_opening_that_hangs_is_ended_though_its_request_waits(make, monkeypatch):
    """No library takes so long: the process is killed, and says so."""
    monkeypatch.setattr(engine_process, "OPEN_S", 0.5)
    machine = make(a={"opens": "hangs"})
    with pytest.raises(ModelLoadFailedError, match=r"did not answer 'work' within 0\.5 s"):
        machine.load("a")
    assert counted(machine) == 0
