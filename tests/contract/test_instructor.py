"""A worker that does not do what the contract says does not start, and what is generated is up to date."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from protocol.actions import ACTIONS
from protocol.generate import ROOT, generated_files
from protocol.params import PingParams
from protocol.results import CancelResult, PingResult
from worker.instructor.instructor_memory import Instructor, check_handlers
from worker.instructor.models import ModelHandlers
from worker.stream.work import Answer, Call

_generated = cache(generated_files)
Handlers = dict[str, Callable[[Any, Call], Any]]


@pytest.fixture
def handlers() -> Handlers:
    """Return the instructor's own handlers, which fit the table."""
    names = {name: name.partition(".")[2] for name in ACTIONS}
    return {
        action: getattr(ModelHandlers, name, None) or getattr(Instructor, f"_{name}")
        for action, name in names.items()
    }


def test_the_instructors_own_handlers_fit(handlers: Handlers) -> None:
    """Every action of the table has a handler that takes and answers what the table says."""
    check_handlers(_bound(handlers))


@pytest.mark.parametrize("action", ACTIONS)
def test_a_missing_handler_is_refused_by_name(handlers: Handlers, action: str) -> None:
    """No action of the contract can be forgotten."""
    del handlers[action]
    with pytest.raises(TypeError, match=action):
        check_handlers(_bound(handlers))


def test_a_handler_of_no_action_is_refused_by_name(handlers: Handlers) -> None:
    """Nothing is answered that the contract does not know."""
    handlers["worker.dance"] = handlers["worker.ping"]
    with pytest.raises(TypeError, match=r"worker\.dance"):
        check_handlers(_bound(handlers))


def test_other_params_are_refused(handlers: Handlers) -> None:
    """A handler takes the params of its own action."""
    handlers["worker.cancel"] = _answers_wrongly
    with pytest.raises(TypeError, match=r"worker\.cancel.*PingParams.*CancelParams"):
        check_handlers(_bound(handlers))


def test_another_result_is_refused(handlers: Handlers) -> None:
    """A handler answers the result of its own action."""
    handlers["worker.ping"] = _answers_wrongly
    with pytest.raises(TypeError, match=r"worker\.ping.*CancelResult.*PingResult"):
        check_handlers(_bound(handlers))


@pytest.mark.parametrize("result", [PingResult, PingResult | Answer, Answer])
def test_an_answer_may_stand_for_its_result(handlers: Handlers, result: Any) -> None:
    """A handler may answer with what is to happen afterwards."""

    def ping(_params: PingParams, _call: Call) -> Any:
        raise NotImplementedError

    ping.__annotations__["return"] = result
    handlers["worker.ping"] = ping
    check_handlers(_bound(handlers))


@pytest.mark.parametrize("name", _generated())
def test_a_generated_file_is_up_to_date(name: str) -> None:
    """``python -m protocol.generate`` would write nothing."""
    assert (ROOT / name).read_text(encoding="utf-8") == _generated()[name]


# ---- helpers ----


def _answers_wrongly(_params: PingParams, _call: Call) -> CancelResult:
    raise NotImplementedError


def _bound(handlers: Handlers) -> Handlers:
    """Bind the instructor's methods, as it does itself: ``self`` is no part of what a handler takes."""
    nobody = object.__new__(Instructor)
    return {
        name: getattr(nobody, handler.__name__) if hasattr(Instructor, handler.__name__) else handler
        for name, handler in handlers.items()
    }
