"""What models will take is found out beside everything else, and what is wrong with one is that one's alone."""

import threading
from pathlib import Path

import pytest

from protocol.vocabulary import ModelState
from tests.e2e.process import eventually
from worker.core.clock import FixedClock
from worker.core.errors import OutOfMemoryError
from worker.core.models import ModelSpec
from worker.core.shortages import start_thread
from worker.manager.manager_memory import MemoryManager
from worker.manager.model_entry import ModelEntry
from worker.workers import model_estimates
from worker.workers.model_estimates import ModelEstimates


class Sizes:
    """A loader that says what it is told to."""

    def __init__(self, said: object) -> None:
        self._said = said

    def estimate(self, _spec: ModelSpec) -> int | None:
        if isinstance(self._said, threading.Event):
            self._said.wait()
            return 7
        if isinstance(self._said, BaseException):
            raise self._said
        return self._said


@pytest.fixture
def looked(monkeypatch):
    def look(patience_s: float = 5.0, **said: object) -> dict[str, ModelEntry]:
        entries = {name: ModelEntry(ModelSpec(name, "torch", Path(name))) for name in said}
        monkeypatch.setattr(model_estimates, "loader_of", lambda spec: Sizes(said[spec.model_id]))
        ModelEstimates(MemoryManager(FixedClock()), patience_s).read(entries.values())
        return entries

    return look


def test_any_failure_is_that_models_reason(looked):
    """Whatever an estimate ends with becomes the reason of that model and of no other."""
    found = looked(good=5, huge=2**63, torn=MemoryError("no memory"), odd=ZeroDivisionError("odd"))
    assert (found["good"].estimated_bytes, found["good"].state_reason) == (5, None)
    assert "claims 9223372036854775808 bytes" in found["huge"].state_reason
    assert found["huge"].estimated_bytes is None
    assert found["torn"].state_reason == "reading it failed: MemoryError: no memory"
    assert found["odd"].state is ModelState.UNLOADED


def test_storage_that_does_not_answer_keeps_nobody_else_waiting(looked):
    """The model says so, those after it are looked at, and it is put right when the storage answers."""
    gates = [threading.Event() for _ in range(5)]
    hung = {f"hung{number}": gate for number, gate in enumerate(gates)}
    found = looked(0.05, first=1, hung=gates[0], last=2)
    assert found["hung"].state_reason == "its storage has not answered for 0.05 s"
    for name, size in (("first", 1), ("last", 2)):  # it may be late on a busy machine, too
        eventually(lambda name=name, size=size: found[name].estimated_bytes == size, f"{name} is looked at")
    many = looked(0.05, **hung, last=2)
    assert "was not looked at" in many["last"].state_reason
    for gate in gates:
        gate.set()
    eventually(lambda: found["hung"].estimated_bytes == 7, "its storage answers")
    assert found["hung"].state_reason is None


def test_what_is_read_as_the_patience_for_it_ends_counts(looked, monkeypatch):
    """As on a busy machine: it is known then, its storage is not said to be silent, and those after it are looked at."""

    def start(run, name):
        over = start_thread(run, name)
        over.wait()
        over.wait = lambda _patience_s: False
        return over

    monkeypatch.setattr(model_estimates, "start_thread", start)
    found = looked(**{f"m{number}": number for number in range(1, 9)})
    assert [each.estimated_bytes for each in found.values()] == list(range(1, 9))
    assert {each.state_reason for each in found.values()} == {None}


def test_what_is_refused_by_its_declaration_says_so_before_it_is_asked_for():
    """``get_model_status`` gives the reason before any load is tried."""
    entry = ModelEntry(ModelSpec("m", "torch", refused="its dtype is odd"))
    ModelEstimates(MemoryManager(FixedClock())).read([entry])
    assert (entry.state, entry.state_reason) == (ModelState.FAILED, "its dtype is odd")


def test_what_is_declared_beyond_the_tensors_is_working_memory():
    """Declared bytes beyond the file are kept free as working memory."""
    entry = ModelEntry(ModelSpec("m", "torch", declared_bytes=100))
    assert (entry.known_bytes, entry.working_bytes) == (100, 0)
    entry.estimated_bytes = 60
    assert (entry.known_bytes, entry.working_bytes) == (100, 40)
    entry.measured_bytes = 64
    assert entry.known_bytes == 104
    entry.estimated_bytes = 120
    assert entry.working_bytes == 0


def test_where_there_are_no_threads_models_have_no_estimates_and_say_why(monkeypatch):
    """Whoever waits for estimates waits for none that can't come."""

    def none(*_: object) -> None:
        raise OutOfMemoryError("the system starts no more threads just now; try again", resource="threads")

    monkeypatch.setattr(model_estimates, "start_thread", none)
    entry = ModelEntry(ModelSpec("m", "torch", Path("m")))
    estimates = ModelEstimates(MemoryManager(FixedClock()))
    estimates.read([entry])
    assert entry.estimated_bytes is None and "threads" in str(entry.state_reason)
    with pytest.raises(OutOfMemoryError):
        estimates.begin([entry], lambda: None)
    assert estimates.wait(0)
