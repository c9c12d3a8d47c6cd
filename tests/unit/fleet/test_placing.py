"""What a gateway makes of a decision. Ray itself is stood in for."""

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


def test_what_is_freed_while_it_is_decided_is_counted_on() -> None:
    """The free was asked for before: that its answer comes just after nothing was found is no reason to refuse."""
    from worker.fleet.placing import Placing

    class Freed:
        """Stands for who waits for the answer of a free."""

    freeing, freed = Freeing(), Freed()
    freeing.sent("memory.deallocate", freed)
    choice = Choice("node-1", "cpu", 1, Step.FITS, 0.0, 0.0, 0.0, 4, "")

    def place(_: Any) -> Any:
        if freeing.numbers():  # as it is known before the free's answer, which comes now
            freeing.answered(freed)
            return SimpleNamespace(chosen=None, why_passed=lambda: ())
        return SimpleNamespace(chosen=choice)

    done = Answered({"success": True, "data": {"allocation_id": "a"}}, None, "1", 2)
    link = SimpleNamespace(node_id="node-1")
    pending = SimpleNamespace(link=link, wait=lambda _: done, read=lambda found: found.message["data"])
    link.send = lambda *_, **__: pending
    roster: Any = SimpleNamespace(
        freeing=freeing, place=place, link=lambda _: link, reserve=lambda *_: None, settle=lambda *_: None
    )
    run = Placing(roster, "node-1").begin("memory.allocate", {"size_bytes": 4}, How({}))
    assert run(Call(CancelToken(lambda: 0), no_report)) == {"allocation_id": "a"}
