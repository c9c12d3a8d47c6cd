"""A worker that does not do what the contract says does not start, and what is generated is up to date."""

from functools import cache
from typing import Any

import pytest

from protocol.actions import ACTIONS
from protocol.generate import ROOT, generated_files
from protocol.params import CancelParams, ClearParams, PingParams
from protocol.results import CancelResult, PingResult
from worker.instructor.binding import Bindings, Claims, Handler
from worker.stream.work import Answer, Call

_generated = cache(generated_files)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_missing_handler_is_refused_by_name(action: str) -> None:
    """No action of the contract can be forgotten."""
    bindings = Bindings()
    for name in ACTIONS.keys() - {action}:
        bindings.bind(name, _fits(name))
    with pytest.raises(TypeError, match=f"not bound: {action}$"):
        bindings.check_complete()
    bindings.bind(action, _fits(action))
    bindings.check_complete()


def test_a_handler_of_no_action_is_refused_by_name() -> None:
    """Nothing is answered that the contract does not know."""
    with pytest.raises(TypeError, match=r"worker\.dance is not in the table"):
        Bindings().bind("worker.dance", _fits("worker.ping"))


def test_an_action_is_bound_once() -> None:
    """A second handler does not replace the first silently."""
    bindings = Bindings()
    bindings.bind("worker.ping", _fits("worker.ping"))
    with pytest.raises(TypeError, match=r"worker\.ping is bound already"):
        bindings.bind("worker.ping", _fits("worker.ping"))


def test_other_params_are_refused() -> None:
    """A handler takes the params of its own action."""
    with pytest.raises(TypeError, match=r"worker\.cancel.*PingParams.*CancelParams"):
        Bindings().bind("worker.cancel", _answers_wrongly)


def test_another_result_is_refused() -> None:
    """A handler answers the result of its own action."""
    with pytest.raises(TypeError, match=r"worker\.ping.*CancelResult.*PingResult"):
        Bindings().bind("worker.ping", _answers_wrongly)


@pytest.mark.parametrize("result", [PingResult, PingResult | Answer, Answer])
def test_an_answer_may_stand_for_its_result(result: Any) -> None:
    """A handler may answer with what is to happen afterwards."""
    bindings = Bindings()
    bindings.bind("worker.ping", _handler(PingParams, result))
    assert list(bindings) == ["worker.ping"]


def test_claims_of_other_params_are_refused() -> None:
    """What an action claims is worked out from its own params; one function may serve several actions."""

    def claims(_params: PingParams | ClearParams) -> Claims:
        return (), True

    bindings = Bindings()
    for name in ("worker.ping", "memory.clear"):
        bindings.bind(name, _fits(name), claims)
    with pytest.raises(TypeError, match=r"worker\.cancel: the claims are of .*CancelParams"):
        bindings.bind("worker.cancel", _handler(CancelParams, CancelResult), claims)


@pytest.mark.parametrize("name", _generated())
def test_a_generated_file_is_up_to_date(name: str) -> None:
    """``python -m protocol.generate`` would write nothing."""
    assert (ROOT / name).read_text(encoding="utf-8") == _generated()[name]


# ---- helpers ----


def _answers_wrongly(_params: PingParams, _call: Call) -> CancelResult:
    raise NotImplementedError


def _handler(takes: Any, answers: Any) -> Handler:
    """Return a handler of these types."""

    def handler(_params: Any, _call: Call) -> Any:
        raise NotImplementedError

    handler.__annotations__ |= {"_params": takes, "return": answers}
    return handler


def _fits(action: str) -> Handler:
    """Return a handler that fits an action."""
    return _handler(ACTIONS[action].params, ACTIONS[action].result)
