"""What is asked of every node, where there is none."""

from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.vocabulary import DeviceState, Executed, HealthState
from worker.core.cancellation import CancelToken
from worker.core.clock import FixedClock
from worker.core.errors import DeadlineExceededError
from worker.core.health import Health, PartHealth
from worker.core.records import no_report
from worker.fleet.asked import How
from worker.fleet.conditions import Condition
from worker.metrics.history import History
from worker.stream.work import Call

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")


def node(node_id: str, pending: Callable[[str], Any], *, started: bool = True) -> Any:
    """Return a node that answers what ``pending`` does."""
    return SimpleNamespace(node_id=node_id, started=started, send=lambda *_: pending(node_id))


def test_a_gateway_whose_nodes_are_all_lost_says_how_it_is() -> None:
    """Its own parts say which nodes are lost: that is when health is looked at."""
    from worker.fleet.everywhere import Everywhere

    health = Health()
    health.add("nodes", lambda: [PartHealth("node:a", HealthState.FAILED)])
    roster: Any = SimpleNamespace(reachable=lambda **_: ())
    everywhere = Everywhere(roster, "a", History(FixedClock()), health)
    call = Call(CancelToken(lambda: 0), no_report)
    found = everywhere.begin("worker.get_health", {}, How({}))(call)
    assert (found["state"], [each["name"] for each in found["parts"]]) == (HealthState.FAILED, ["node:a"])


def test_a_node_that_does_not_answer_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease may last on: the directory's word is some seconds old."""
    from worker.core.errors import DeviceUnavailableError
    from worker.fleet import everywhere

    class Pending:
        def __init__(self, node_id: str) -> None:
            self.link = SimpleNamespace(node_id=node_id)
            self.ref = node_id

        def answer(self, _call: Any) -> dict[str, Any]:
            if self.ref == "dying":
                raise DeviceUnavailableError("lost")
            return {"state": "ok", "parts": [{"name": "requests", "state": "ok", "reason": None}]}

    monkeypatch.setattr(everywhere.ray, "wait", lambda refs, **_: (refs[:2], refs[2:]))
    names = ("a", "dying", "hangs")
    links = [node(each, Pending) for each in names]
    health = Health()
    health.add("nodes", lambda: [PartHealth(f"node:{each}", HealthState.OK) for each in names])
    doubted: list[str] = []
    silence = SimpleNamespace(ask=lambda link, _: doubted.append(link.node_id))
    roster: Any = SimpleNamespace(reachable=lambda **_: links, silence=silence)
    call = Call(CancelToken(lambda: 0), no_report)
    asked = everywhere.Everywhere(roster, "a", History(FixedClock()), health)
    found = asked.begin("worker.get_health", {}, How({}))(call)
    states = {each["name"]: each["state"] for each in found["parts"]}
    assert found["state"] == HealthState.DEGRADED
    assert doubted == ["hangs"]  # it is asked whether it is there
    assert states == {"node:a": "ok", "node:dying": "degraded", "node:hangs": "degraded", "a/requests": "ok"}


def test_a_question_that_ray_leaves_by_ending_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises SystemExit where a thread waits for it while the gateway ends: figures are asked for at any moment."""
    from worker.core.errors import DeviceUnavailableError
    from worker.fleet import everywhere, links
    from worker.fleet.freeing import Freeing
    from worker.fleet.silence import Silence

    def ended(*_: Any, **__: Any) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(everywhere.ray, "wait", ended)
    monkeypatch.setattr(links.ray, "get", ended)
    handle = SimpleNamespace(call=SimpleNamespace(remote=lambda _: "ref"))
    link = links.Link("a", handle, "g", Freeing(), Silence(), lambda *_: None, lambda *_: None)
    roster: Any = SimpleNamespace(reachable=lambda **_: [link])
    asked = everywhere.Everywhere(roster, "a", History(FixedClock()), Health())
    run = asked.begin("memory.get_pressure", {}, How({}))
    with pytest.raises(DeviceUnavailableError, match="a is lost"):
        run(Call(CancelToken(lambda: 0), no_report))


def test_what_ends_early_on_one_node_is_given_up_on_all_and_may_have_been_done() -> None:
    """Its own word, that everything is as it was, is of that node alone."""
    from worker.fleet.everywhere import Everywhere

    cancelled: list[str] = []

    class Pending:
        def __init__(self, node_id: str) -> None:
            self.link = SimpleNamespace(node_id=node_id)

        def answer(self, _call: Any) -> dict[str, Any]:
            if self.link.node_id != "a":
                raise DeadlineExceededError("b: the deadline passed")
            return {}

        def cancel(self) -> None:
            cancelled.append(self.link.node_id)

    links = [node(each, Pending) for each in "abc"]
    roster: Any = SimpleNamespace(reachable=lambda **_: links)
    asked = Everywhere(roster, "a", History(FixedClock()), Health())
    call = Call(CancelToken(lambda: 0), no_report)
    with pytest.raises(DeadlineExceededError) as ended:
        asked.begin("memory.clear", {"clear_type": "all"}, How({}))(call)
    assert ended.value.executed is Executed.UNKNOWN
    assert cancelled == ["a", "b", "c"]


def test_what_changes_something_everywhere_waits_for_no_node_to_start() -> None:
    """It is done there once it has started, before what is asked of it later: it holds nothing until then."""
    from worker.fleet.everywhere import Everywhere

    asked: list[str] = []
    answer = {"added": [], "changed": [], "removed": [], "kept": ["m"], "refused": []}

    def pending(node_id: str) -> Any:
        asked.append(node_id)
        return SimpleNamespace(link=SimpleNamespace(node_id=node_id), answer=lambda _: answer)

    links = [node("a", pending), node("late", pending, started=False)]
    roster: Any = SimpleNamespace(reachable=lambda *, starting: links if starting else links[:1])
    everywhere = Everywhere(roster, "a", History(FixedClock()), Health())
    call = Call(CancelToken(lambda: 0), no_report)
    assert everywhere.begin("memory.reload_models", {}, How({}))(call)["kept"] == ["m"]
    assert sorted(asked) == ["a", "late"]


def test_a_status_has_the_last_figures_of_a_node_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With their age, and what is known of it now: it is waited for once."""
    from worker.fleet import everywhere

    now = [1000.0]
    monkeypatch.setattr(everywhere, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(everywhere.ray, "wait", lambda refs, **_: (refs, []))
    row = everywhere._row("b/cpu", None, DeviceState.AVAILABLE, "") | {
        "age_ms": 40, "available_bytes": 9, "allocated_bytes": 4, "pressure_level": "low", "usage": [],
    }  # fmt: skip
    answer = {"devices": [row], "host": everywhere._NO_HOST, "age_ms": 40}

    def pending(node_id: str) -> Any:
        return SimpleNamespace(ref=node_id, link=SimpleNamespace(node_id=node_id), answer=lambda _: answer)

    there = [node("b", pending)]
    roster: Any = SimpleNamespace(
        reachable=lambda **_: there, devices=lambda: (("b/cpu", DeviceState.AVAILABLE),), view=lambda _: None,
        condition=lambda _: Condition(HealthState.DEGRADED, None, "has answered nothing for 7 s"),
    )  # fmt: skip
    status = everywhere.Everywhere(roster, "a", History(FixedClock()), Health())
    call = Call(CancelToken(lambda: 0), no_report)
    assert status.begin("memory.get_status", {}, How({}))(call)["devices"] == [row]
    there.clear()
    now[0] += 7
    found = status.begin("memory.get_status", {}, How({}))(call)
    said = {
        "state": "unavailable", "state_reason": "it has answered nothing for 7 s", "age_ms": 7040,
        "pressure_level": "unknown", "usage": None,
    }  # fmt: skip
    assert found["devices"] == [row | said]
    assert (found["age_ms"], found["pressure_level"]) == (7040, "unknown")


@pytest.mark.parametrize("answers", [True, False])
def test_a_question_with_a_deadline_is_answered_before_it_by_those_that_answer(
    monkeypatch: pytest.MonkeyPatch, *, answers: bool
) -> None:
    """One that hangs costs them nothing; where none answers yet, the rest of the time is waited for."""
    from worker.fleet import everywhere

    waited: list[float] = []

    def wait(refs: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        assert num_returns == 2
        waited.append(timeout)
        return (refs[:1], refs[1:]) if answers else ([], refs)

    def answer(call: Call) -> dict[str, Any]:
        if not answers:
            call.token.check()
        return {"devices": [], "pressure_level": "low"}

    def pending(node_id: str) -> Any:
        return SimpleNamespace(
            ref=node_id, link=SimpleNamespace(node_id=node_id), answer=answer, cancel=lambda: None
        )

    monkeypatch.setattr(everywhere.ray, "wait", wait)
    silence = SimpleNamespace(ask=lambda *_: None)
    roster: Any = SimpleNamespace(
        reachable=lambda **_: [node("a", pending), node("hangs", pending)], silence=silence
    )
    call = Call(CancelToken(lambda: 400_000_000 if waited else 0, deadline_ns=400_000_000), no_report)
    run = everywhere.Everywhere(roster, "a", History(FixedClock()), Health()).begin(
        "memory.get_pressure", {}, How({})
    )
    if answers:
        assert run(call)["pressure_level"] == "low"
    else:
        with pytest.raises(DeadlineExceededError):
            run(call)
    assert waited == [pytest.approx(0.3)]
