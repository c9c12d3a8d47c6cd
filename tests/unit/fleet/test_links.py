"""What a gateway sends to a node, also before that has started. Ray itself is stood in for."""

import time
from concurrent.futures import Future
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.vocabulary import Executed
from worker.core.cancellation import CancelToken
from worker.core.errors import (
    CancelledError,
    DeadlineExceededError,
    DeviceUnavailableError,
    WorkerError,
)
from worker.core.records import no_report
from worker.fleet.freeing import Freeing
from worker.fleet.silence import SILENT_SECONDS, NodeHangsError, Silence
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
    link = Link("node-1", handle, "g", Freeing(), Silence(), lambda *_: None, lambda *_: None)
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


class Node:
    """A link to a node that is being started, and what reached the node. It answers once it may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from worker.fleet import links

        self.reached: list[Asked] = []
        self.cancelled: list[str] = []
        self.pings: list[Future[None]] = []
        self.now = [1000.0]
        self.answers = True
        self.late: list[Future[None]] = []
        answer = {
            "device_id": "cpu",
            "allocation_id": "alloc-1-ab",
            "destination_allocation_id": "alloc-2-ab",
        }
        monkeypatch.setattr(
            links.ray, "get", lambda _: packed(Answered({"success": True, "data": answer}, None, "1", 2))
        )
        monkeypatch.setattr(links.ray, "wait", self._wait)
        monkeypatch.setattr(links, "start_thread", lambda run, _: run())
        monkeypatch.setattr(
            links, "time", SimpleNamespace(monotonic=lambda: self.now[0], monotonic_ns=time.monotonic_ns)
        )
        handle = SimpleNamespace(
            call=SimpleNamespace(remote=self._reach),
            ping=SimpleNamespace(remote=lambda: self._future(self.pings)),
            cancel=SimpleNamespace(remote=lambda call_id: self.cancelled.append(call_id) or self._future([])),
        )
        self.silence = Silence(lambda: self.now[0])
        self.link = links.Link(
            "node-2", handle, "g", Freeing(), self.silence, lambda *_: None, lambda *_: None, started=False
        )

    def _reach(self, asked: bytes) -> Any:
        self.reached.append(unpacked(asked))
        return self._future(self.late)

    def _future(self, kept: list[Future[None]]) -> Any:
        made: Future[None] = Future()
        kept.append(made)
        return SimpleNamespace(future=lambda: made)

    def _wait(self, waited_for: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        self.now[0] += 0 if self.answers else timeout
        return (waited_for, []) if self.answers else ([], waited_for)

    def send(self, action: str = "memory.allocate", **meta: Any) -> Any:
        return self.link.send(action, {}, meta)


@pytest.fixture
def starting(monkeypatch: pytest.MonkeyPatch) -> Node:
    """Return such a link."""
    return Node(monkeypatch)


@pytest.fixture
def hanging(starting: Node) -> Node:
    """Return a link to a node that was started, and answers nothing any more."""
    starting.link.start()
    starting.answers = False
    return starting


def call(deadline_ns: int | None = None) -> Call:
    return Call(CancelToken(time.monotonic_ns, deadline_ns), no_report)


def test_what_waits_for_a_node_ends_by_its_own_deadline_and_is_never_done(starting: Node) -> None:
    """Nor where it was cancelled: whoever was answered that nothing happened has nothing there later."""
    late, cancelled, kept = starting.send(deadline_ms=1), starting.send(), starting.send("memory.clear")
    with pytest.raises(DeadlineExceededError, match="node-2"):
        late.answer(call(deadline_ns=1))
    given_up = call()
    given_up.token.cancel()
    with pytest.raises(CancelledError):
        cancelled.answer(given_up)
    starting.link.start()
    assert kept.answer(call())["device_id"] == "node-2/cpu"
    assert [each.action for each in starting.reached] == ["memory.clear"]


def test_what_waited_for_a_node_has_the_time_that_is_left(starting: Node) -> None:
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


def test_what_waits_for_a_node_that_is_lost_is_refused(starting: Node) -> None:
    """It was not done, and the reason is told; so is what is sent by a link that ended."""
    before = starting.send()
    starting.link.end("it did not start in 120 s")
    for each in (before, starting.send()):
        with pytest.raises(DeviceUnavailableError, match="it did not start in 120 s") as refused:
            each.answer(call())
        assert refused.value.executed is Executed.NO
    assert starting.reached == []


def test_what_is_asked_of_a_node_that_hangs_is_answered_for(hanging: Node) -> None:
    """Also where the host set no deadline: the node is asked whether it is there, and says nothing to that either."""
    with pytest.raises(NodeHangsError, match="node-2 has answered nothing for 5 s") as ended:
        hanging.send("memory.clear").answer(call())
    assert ended.value.executed is Executed.UNKNOWN
    assert hanging.now[0] == pytest.approx(1000 + 3 + SILENT_SECONDS, abs=0.3)
    assert len(hanging.pings) == 1
    with pytest.raises(NodeHangsError):
        hanging.send("memory.clear").answer(call())
    hanging.pings[0].set_result(None)
    hanging.answers = True
    assert hanging.send("memory.clear").answer(call())["device_id"] == "node-2/cpu"


def test_what_takes_long_on_a_node_that_is_there_is_waited_for(
    hanging: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers that it is there, as often as it is asked."""
    from worker.fleet import links

    looks = 0

    def wait(waited_for: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        nonlocal looks
        looks += 1
        hanging.now[0] += timeout
        while hanging.pings:
            hanging.pings.pop().set_result(None)
        return (waited_for, []) if looks > 1000 else ([], waited_for)

    monkeypatch.setattr(links.ray, "wait", wait)
    assert hanging.send("memory.load_model").answer(call())["device_id"] == "node-2/cpu"


@pytest.mark.parametrize("error", [CancelledError, DeadlineExceededError])
def test_what_ends_early_on_a_node_that_hangs_names_it(hanging: Node, error: type[WorkerError]) -> None:
    """Within a quarter of a second or so; the node is told, for when it goes on."""
    ended = call(deadline_ns=1 if error is DeadlineExceededError else None)
    if error is CancelledError:
        ended.token.cancel()
    pending = hanging.send("memory.clear")
    with pytest.raises(error, match="node-2 has not answered") as raised:
        pending.answer(ended)
    assert raised.value.executed is Executed.UNKNOWN
    assert hanging.now[0] == pytest.approx(1000.25, abs=0.1)
    assert set(hanging.cancelled) == {pending.call_id}


@pytest.mark.parametrize(
    ("action", "data", "ours", "freed"),
    [
        ("memory.allocate", {}, False, "alloc-1-ab"),
        ("memory.transfer", {"transfer_type": "copy"}, False, "alloc-2-ab"),
        ("memory.transfer", {"transfer_type": "move"}, True, "alloc-2-ab"),
        (
            "memory.transfer",
            {"transfer_type": "move"},
            False,
            None,
        ),  # it is all that there is of the contents
        ("memory.optimize", {}, False, None),
    ],
)
def test_what_is_given_up_and_made_all_the_same_is_taken_back(
    hanging: Node, action: str, data: dict[str, Any], freed: str | None, *, ours: bool
) -> None:
    """Once the node says so; what can't be was answered as perhaps done."""
    pending = hanging.link.send(action, data, {})
    pending.ours = ours
    with pytest.raises(NodeHangsError) as raised:
        pending.answer(call())
    assert raised.value.executed is (Executed.UNKNOWN if freed is None else Executed.NO)
    hanging.answers = True
    hanging.pings[0].set_result(None)
    hanging.late[0].set_result(None)
    undone = [(each.action, each.data) for each in hanging.reached[1:]]
    assert undone == (
        [] if freed is None else [("memory.deallocate", {"allocation_id": freed, "force": True})]
    )
