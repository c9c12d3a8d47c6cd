"""An instructor over a machine of a test's."""

from typing import Any

from tests.unit.machine import Machine
from worker.instructor.instructor_memory import Instructor


def instructor_over(machine: Machine) -> Instructor:
    """Return one without a session: nothing that is sent to it may get that far."""
    session: Any = None
    return Instructor(
        machine.memory, session, machine.clock, machine.history, "0", 1, machine.stores, machine.later, machine.tell
    )  # fmt: skip
