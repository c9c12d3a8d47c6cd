"""Work in engine processes: its errors, results that no caller waits for, and what it holds while it goes on."""

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from protocol.vocabulary import ModelState, UnloadMode
from tests.rigs import engines
from tests.rigs.engines import MIB
from tests.unit.machine import Machine
from tests.unit.workers.engine_machines import counted, do, entry, make, unload, until
from worker.backends.engines import process as engine_process
from worker.backends.engines.arrays import Segments
from worker.backends.isolation.codec import RemoteError
from worker.core.cancellation import CancelToken
from worker.core.errors import ModelBusyError, OutOfMemoryError
from worker.plugins._leases import Models

__all__ = ["make"]


def engine_works(machine: Machine) -> int:
    """Return how many calls work in the one engine process."""
    (process,) = machine.models.weights.engines._engines._processes.values()
    return process._working


def cancelled(machine: Machine, tmp_path: Path, work: Callable[..., Any], **data: Any) -> Path:
    """Cancel work once it has begun, which goes on all the same. Returns the file that it waits for."""
    token, begun, go = machine.token(), tmp_path / "begun", tmp_path / "go"
    with pytest.raises(Exception, match="cancelled"), Canceller(token, begun):
        do(machine, "a", work, begun=str(begun), go=str(go), token=token, **data)
    return go


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
    go = cancelled(machine, tmp_path, engines.stop_late)
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
    go = cancelled(machine, tmp_path, engines.stop_late, sent=bytes(MIB))
    assert len(process._segments._under_way) == 1
    go.touch()
    until(lambda: not process._segments._under_way)


def test_a_result_that_no_caller_waits_for_is_taken_back(make, tmp_path):
    """It lies in memory that the engine's process shares: nothing of it stays there once the call is answered."""
    machine = make(a={})
    machine.load("a")
    go = cancelled(machine, tmp_path, engines.answer_late, bytes=MIB)
    go.touch()
    until(lambda: engine_works(machine) == 0)
    until(lambda: do(machine, "a", engines.sent) == 0)
    answer = do(machine, "a", engines.answer_late, begun=str(tmp_path / "begun"), go=str(go), bytes=MIB)
    assert len(answer) == MIB
    until(lambda: do(machine, "a", engines.sent) == 0)


def test_a_result_that_can_not_be_sent_is_taken_back(make, tmp_path):
    """Its arrays lie in shared memory by then: also where no caller waits for it any more."""
    machine = make(a={})
    machine.load("a")
    with pytest.raises(RemoteError, match="complex"):
        do(machine, "a", engines.answer_in_kind, bytes=MIB)
    until(lambda: do(machine, "a", engines.sent) == 0)
    go = cancelled(machine, tmp_path, engines.answer_in_kind, bytes=MIB)
    go.touch()
    until(lambda: engine_works(machine) == 0)
    until(lambda: do(machine, "a", engines.sent) == 0)


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
