"""What a gateway makes of a decision. Ray itself is stood in for."""

from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from worker.core.cancellation import CancelToken
from worker.core.records import no_report
from worker.fleet.asked import How
from worker.fleet.freeing import Freeing
from worker.fleet.views import Choice, Step
from worker.fleet.words import Answered
from worker.stream.work import Call

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")


ROOM = Choice("node-1", "cpu", 1, Step.FITS, 0.0, 0.0, 0.0, 4, "")


def asked(place: Callable[[Any], Any], await_start: Callable[[Any], bool], freeing: Freeing) -> Any:
    """Return what an allocation is answered, where whatever is placed is done."""
    from worker.fleet.placing import Placing

    done = Answered({"success": True, "data": {"allocation_id": "a"}}, None, "1", 2)
    link = SimpleNamespace(node_id="node-1")
    pending = SimpleNamespace(link=link, wait=lambda _: done, read=lambda found: found.message["data"])
    link.send = lambda *_, **__: pending
    roster: Any = SimpleNamespace(
        freeing=freeing, place=place, link=lambda _: link, reserve=lambda *_: None, settle=lambda *_: None,
        await_start=await_start,
    )  # fmt: skip
    run = Placing(roster, "node-1").begin("memory.allocate", {"size_bytes": 4}, How({}))
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

    assert asked(place, lambda _: False, freeing) == {"allocation_id": "a"}


def test_what_fits_nowhere_is_tried_on_each_node_that_is_being_started() -> None:
    """A gateway serves before all nodes are there: a first request is not refused for that."""
    there: list[str] = []

    def place(_: Any) -> Any:
        return SimpleNamespace(chosen=ROOM if len(there) == 2 else None, why_passed=lambda: ())

    def await_start(_: Any) -> bool:
        there.append("another node")
        return True

    assert asked(place, await_start, Freeing()) == {"allocation_id": "a"}
