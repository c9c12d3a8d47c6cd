"""What a gateway makes of a decision. Ray itself is stood in for."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.vocabulary import Executed
from worker.core.cancellation import CancelToken
from worker.core.errors import UnsupportedError
from worker.core.records import no_report
from worker.fleet.asked import How
from worker.fleet.freeing import Freeing
from worker.fleet.views import Choice, Step
from worker.fleet.words import Answered
from worker.stream.work import Call

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")


ROOM = Choice("node-1", "cpu", 1, Step.FITS, 0.0, 0.0, 0.0, 4, "")


def asked(
    place: Callable[[Any], Any],
    await_start: Callable[[Any], bool] = lambda _: False,
    freeing: Freeing | None = None,
    answer: Callable[[dict[str, Any]], dict[str, Any]] = lambda _: {"allocation_id": "a"},
    name: str = "memory.allocate",
    **data: Any,
) -> Any:
    """Return what a request is answered, by a node that answers whatever is placed there."""
    from worker.fleet.placing import Placing

    done = Answered({"success": True, "data": {}}, None, "1", 2)
    link = SimpleNamespace(node_id="node-1")

    def send(_name: str, inner: dict[str, Any], *_: Any, **__: Any) -> Any:
        return SimpleNamespace(link=link, wait=lambda _: done, read=lambda _: answer(inner))

    link.send = send
    roster: Any = SimpleNamespace(
        freeing=freeing or Freeing(), place=place, link=lambda _: link, reserve=lambda *_: None,
        settle=lambda *_: None, await_start=await_start, meant=lambda *_: None,
    )  # fmt: skip
    run = Placing(roster, "node-1").begin(name, data or {"size_bytes": 4}, How({}))
    return run(Call(CancelToken(lambda: 0), no_report))


def test_what_is_freed_while_it_is_decided_is_counted_on() -> None:
    """The free was asked for before: that its answer comes just after nothing was found is no reason to refuse."""

    class Freed:
        """Stands for who waits for the answer of a free."""

    freeing, freed = Freeing(), Freed()
    freeing.sent("memory.deallocate", freed)

    def place(_: Any) -> Any:
        if freeing.numbers():  # as it is known before the free's answer, which comes now
            freeing.answered(freed)
            return SimpleNamespace(chosen=None, why_passed=lambda: ())
        return SimpleNamespace(chosen=ROOM)

    assert asked(place, freeing=freeing) == {"allocation_id": "a"}


def test_what_fits_nowhere_is_tried_on_each_node_that_is_being_started() -> None:
    """A gateway serves before all nodes are there: a first request is not refused for that."""
    there: list[str] = []

    def place(_: Any) -> Any:
        return SimpleNamespace(chosen=ROOM if len(there) == 2 else None, why_passed=lambda: ())

    def await_start(_: Any) -> bool:
        there.append("another node")
        return True

    assert asked(place, await_start) == {"allocation_id": "a"}


@pytest.mark.parametrize("is_default", [True, False])
def test_a_node_is_told_no_device_of_a_model_that_is_declared_for_another(*, is_default: bool) -> None:
    """Its node knows which it is for, or its engine: what it takes by itself is not named, and what it refuses is asked without."""
    choice = replace(ROOM, device_id="sim:0", is_default=is_default)

    def answer(inner: dict[str, Any]) -> dict[str, Any]:
        if "device_id" in inner:
            error = UnsupportedError("it runs on cpu: its device and its engine's params say where")
            error.executed = Executed.NO
            raise error
        return {"device_id": "cpu"}

    found = asked(
        lambda _: SimpleNamespace(chosen=choice), answer=answer, name="memory.load_model", model_id="m"
    )
    assert found == {"device_id": "cpu"}
