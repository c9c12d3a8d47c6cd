"""What the reading thread does for a request before it is run."""

import subprocess
import sys
from pathlib import Path

import pytest

from protocol.actions import ACTIONS
from protocol.generate import ROOT
from tests.unit.instructor.instructors import instructor_over
from tests.unit.machine import Machine


@pytest.mark.parametrize(("action", "once"), [
    ("worker.ping", True), ("memory.get_status", True), ("memory.optimize", False), ("memory.clear", False),
])  # fmt: skip
def test_a_question_without_data_is_prepared_once(tmp_path: Path, action: str, *, once: bool) -> None:
    """What claims and changes nothing is the same work each time; other work is made for each request."""
    instructor = instructor_over(Machine(tmp_path))
    assert (instructor.prepare(action, {}) is instructor.prepare(action, {})) is once


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
