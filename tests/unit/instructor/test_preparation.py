"""What the reading thread does for a request before it is run."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.machine import Machine
from worker.instructor.instructor_memory import Instructor


@pytest.mark.parametrize(("action", "once"), [
    ("worker.ping", True), ("memory.get_status", True), ("memory.optimize", False), ("memory.clear", False),
])  # fmt: skip
def test_a_question_without_data_is_prepared_once(tmp_path: Path, action: str, *, once: bool) -> None:
    """What claims and changes nothing is the same work each time; other work is made for each request."""
    machine = Machine(tmp_path)
    session: Any = None
    instructor = Instructor(machine.memory, session, machine.clock, machine.history, "0", 1, machine.stores)
    assert (instructor.prepare(action, {}) is instructor.prepare(action, {})) is once
