"""A call into a device's process, on its way."""

from collections.abc import Callable
from typing import Any

from worker.backends.isolation.endings import Ending
from worker.backends.isolation.frames import Message
from worker.core.records import Report, no_report
from worker.core.sure_lock import SureEvent

WORK = "work"
"""The call that carries values of others' code."""

SUCCEEDED, FAILED = 2, 3
"""So many fields has an answer."""

QUESTIONS = frozenset(
    {
        "start",
        "readings",
        "processes",
        "check",
        "check_restart",
        "notes",
        "live",
        "map",
        "read",
        "read_file",
        "tick",
    }
)
"""Calls that change nothing that figures tell of. A tick may: it is seen when figures are taken next."""

OnQuestion = Callable[["Call", Any], None]
"""Called by whichever thread reads answers with what work asks, which ``Answers.reply`` answers, later and elsewhere."""

OnReport = Report
"""Called by whichever thread reads answers."""


class Call:
    """One call on its way."""

    answer: Message | Ending | None = None
    on_report: OnReport = staticmethod(no_report)
    on_question: OnQuestion | None = None
    undo: tuple[Any, ...] | None = None
    """What to call if no caller waits any more and it is done all the same."""
    on_answer: Callable[[], None] | None = None
    """What to call once it is answered, if no caller waits any more."""
    woken: SureEvent | None = None
    """Set for who waits while another reads: it is answered, or the reading is free."""

    def __init__(self, number: int, do: str) -> None:
        self.number = number
        self.do = do
