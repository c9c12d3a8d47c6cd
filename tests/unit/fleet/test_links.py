"""What a gateway sends to a node, also before that has started. Ray itself is stood in for."""

import time
from concurrent.futures import Future
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.vocabulary import Executed
from worker.core.cancellation import CancelToken
from worker.core.errors import CancelledError, DeadlineExceededError, DeviceUnavailableError
from worker.core.records import no_report
from worker.fleet.freeing import Freeing
from worker.fleet.words import Answered, Asked, packed, unpacked
from worker.stream.work import Call

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")


@pytest.mark.parametrize("send", ["cancel", "drain", "leave"])
def test_a_bug_in_what_nobody_waits_for_is_logged(send: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Ray is told to say nothing of it; that a node is lost is told of elsewhere."""
    from worker.fleet.links import LOST, Link

    sent: list[Future[None]] = []

    def remote(*_: Any, **__: Any) -> Any:
        sent.append(Future())
        return SimpleNamespace(future=lambda: sent[-1])

    handle = SimpleNamespace(**{send: SimpleNamespace(remote=remote)})
    link = Link("node-1", handle, "g", Freeing(), lambda *_: None, lambda *_: None)
    asked = [SimpleNamespace(call_id="call-1")] if send == "cancel" else []
    for outcome in (None, LOST[0](), ZeroDivisionError("a slip of a node's")):
        getattr(link, send)(*asked)
        if outcome is None:
            sent[-1].set_result(None)
        else:
            sent[-1].set_exception(outcome)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert "a slip of a node's" in said[0]


class Starting:
    """A link to a node that is being started, and what reached the node."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from worker.fleet import links

        self.reached: list[Asked] = []
        self.now = [1000.0]
        answer = packed(Answered({"success": True, "data": {"device_id": "cpu"}}, None, "1", 2))
        monkeypatch.setattr(links.ray, "get", lambda _: answer)
        monkeypatch.setattr(links, "time", SimpleNamespace(monotonic=lambda: self.now[0]))
        handle = SimpleNamespace(
            call=SimpleNamespace(remote=lambda asked: self.reached.append(unpacked(asked)))
        )
        self.link = links.Link(
            "node-2", handle, "g", Freeing(), lambda *_: None, lambda *_: None, started=False
        )

    def send(self, action: str = "memory.allocate", **meta: Any) -> Any:
        return self.link.send(action, {}, meta)


@pytest.fixture
def starting(monkeypatch: pytest.MonkeyPatch) -> Starting:
    """Return such a link."""
    return Starting(monkeypatch)


def call(deadline_ns: int | None = None) -> Call:
    return Call(CancelToken(time.monotonic_ns, deadline_ns), no_report)


def test_what_waits_for_a_node_ends_by_its_own_deadline_and_is_never_done(starting: Starting) -> None:
    """Nor where it was cancelled: whoever was answered that nothing happened has nothing there later."""
    late, cancelled, kept = starting.send(deadline_ms=1), starting.send(), starting.send("memory.clear")
    with pytest.raises(DeadlineExceededError, match="node-2"):
        late.answer(call(deadline_ns=1))
    given_up = call()
    given_up.token.cancel()
    with pytest.raises(CancelledError):
        cancelled.answer(given_up)
    starting.link.start()
    assert kept.answer(call()) == {"device_id": "node-2/cpu"}
    assert [each.action for each in starting.reached] == ["memory.clear"]


def test_what_waited_for_a_node_has_the_time_that_is_left(starting: Starting) -> None:
    """And arrives in the order in which it was sent, before whatever is sent from then on."""
    starting.send("memory.allocate", deadline_ms=5000, traceparent="t")
    starting.now[0] += 2
    starting.send("memory.clear", deadline_ms=5000)
    starting.now[0] += 2
    starting.send("memory.optimize")
    starting.link.start()
    starting.send("memory.plan", deadline_ms=5000)
    told = [(each.place.number, each.action, each.meta) for each in starting.reached]
    assert told == [
        (1, "memory.allocate", {"deadline_ms": 1000, "traceparent": "t"}),
        (2, "memory.clear", {"deadline_ms": 3000}),
        (3, "memory.optimize", {}),
        (4, "memory.plan", {"deadline_ms": 5000}),
    ]


def test_what_waits_for_a_node_that_is_lost_is_refused(starting: Starting) -> None:
    """It was not done, and the reason is told; so is what is sent by a link that ended."""
    before = starting.send()
    starting.link.end("it did not start in 120 s")
    for each in (before, starting.send()):
        with pytest.raises(DeviceUnavailableError, match="it did not start in 120 s") as refused:
            each.answer(call())
        assert refused.value.executed is Executed.NO
    assert starting.reached == []
