"""What the reading thread does for a request before it is run."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.actions import ACTIONS
from protocol.generate import ROOT
from tests.unit.instructor.instructors import instructor_over
from tests.unit.machine import Machine, SimulatedDevice
from worker.core.records import no_report
from worker.manager.model_entry import ModelEntry
from worker.stream.work import Call, Claim

MIB = 2**20


@pytest.mark.parametrize(("action", "once"), [
    ("worker.ping", True), ("memory.get_status", True), ("memory.optimize", False), ("memory.clear", False),
])  # fmt: skip
def test_a_question_without_data_is_prepared_once(tmp_path: Path, action: str, *, once: bool) -> None:
    """What claims and changes nothing is the same work each time; other work is made for each request."""
    instructor = instructor_over(Machine(tmp_path))
    assert (instructor.prepare(action, {}) is instructor.prepare(action, {})) is once


def test_the_word_that_memory_was_given_back_waits_for_the_frees_before_it(tmp_path: Path) -> None:
    """Of its device alone, and not for what allocates there, which may wait for that very word."""
    machine = Machine(tmp_path, SimulatedDevice(64 * MIB))
    instructor = instructor_over(machine)

    def claims_of(action: str, **data: object) -> set[Claim]:
        return set(instructor.prepare(action, data).claims)

    for device_id in ("cpu", "sim:0"):
        instructor.prepare(
            "memory.register_consumer",
            {"consumer_id": device_id, "device_id": device_id, "held_bytes": MIB, "offers": []},
        ).run(Call(machine.token(), no_report))
    freed = machine.allocate("sim:0", MIB)
    (after,) = claims_of("memory.released", consumer_id="sim:0", bytes=1)
    assert after.exclusive
    assert replace(after, exclusive=False) in claims_of("memory.deallocate", allocation_id=freed)
    assert after.key not in {
        each.key for each in claims_of("memory.allocate", size_bytes=1, device_id="sim:0", make_room=True)
    }
    assert claims_of("memory.released", consumer_id="cpu", bytes=1).isdisjoint({after})
    assert claims_of("memory.released", consumer_id="nobody", bytes=1) == set()


def test_who_asks_for_models_whose_files_are_being_read_keeps_no_other_waiting(tmp_path: Path) -> None:
    """The reading thread waits for no storage, which may not answer: that question goes to a thread of its own."""
    machine, answers = Machine(tmp_path), threading.Event()
    instructor = instructor_over(machine)
    estimates = machine.memory.models.worker.estimates
    try:
        estimates.begin(_entries_from(answers), lambda: None)
        assert not instructor.prepare("memory.get_model_status", {}).quick
        assert instructor.prepare("memory.get_status", {}).quick
    finally:
        answers.set()
    assert estimates.wait(30)
    assert instructor.prepare("memory.get_model_status", {}).quick


def _entries_from(answers: threading.Event) -> Iterator[ModelEntry]:
    """Say that there are no models, once storage answers."""
    answers.wait(30)
    yield from ()


def test_what_is_bound_later_fits_the_table_too(tmp_path: Path) -> None:
    """Each action's handler takes and answers what the table says, also where that is looked at when it is first asked for."""
    instructor = instructor_over(Machine(tmp_path))
    bound = {name: instructor._bindings.get(name) for name in ACTIONS}
    assert [name for name, each in bound.items() if each is None or each.row is not ACTIONS[name]] == []


def test_a_worker_imports_nothing_of_stores_before_one_is_asked_for() -> None:
    """Whoever uses none starts as if there were none."""
    program = "import sys, worker.app.serve; print([n for n in sys.modules if 'stores.' in n or 'store_' in n or 'sqlite' in n])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
