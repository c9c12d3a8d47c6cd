"""What a gateway knows of its nodes, and what becomes of that where one is lost and comes back. Ray itself is stood in for."""

import time
from concurrent.futures import Future
from dataclasses import replace
from importlib.util import find_spec
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.vocabulary import DeviceKind, Executed, ModelState
from worker.core.cancellation import CancelToken
from worker.core.errors import CancelledError, DeviceUnavailableError
from worker.core.records import no_report
from worker.fleet.changes import change
from worker.fleet.views import (
    Cause,
    DeviceView,
    ModelView,
    NodeChange,
    NodeView,
    PlacementRequest,
    Step,
)
from worker.fleet.words import Answered, News, Since
from worker.stream.work import Call

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")
HANDLE = SimpleNamespace(
    watch=SimpleNamespace(remote=object),
    leave=SimpleNamespace(remote=object),
    ping=SimpleNamespace(remote=lambda: SimpleNamespace(future=Future)),
)
ANY = PlacementRequest(required_bytes=4)


def view(incarnation: str, revision: int = 1, **more: Any) -> NodeView:
    device = DeviceView("cpu", DeviceKind.CPU, available_bytes=9)
    return NodeView("node-1", incarnation, revision, (device,), **more)


class Told:
    """What the roster told of losses, and after how many seconds a node was back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from worker.fleet import roster
        from worker.fleet.machines import Machines

        monkeypatch.setattr(roster.ray, "cancel", lambda ref: None)
        cluster: Any = SimpleNamespace(
            directory=lambda: None, node=lambda machine, _: self.handle(machine), missed=lambda machine: None
        )
        self.handles: dict[str, Any] = {}
        self.losses: list[str] = []
        self.back: list[float] = []
        self.machines: Any = {"node-1": SimpleNamespace(folder=None)}
        self.roster = roster.Roster(
            Machines(cluster, lambda: self.machines, ()), "g", lambda *event: None, self._lost, lambda *back: self.back.append(back[1])
        )  # fmt: skip
        self.roster.look_for_machines()
        self.hear(view("1"), lease=60.0)

    def answer(self, action: str, revision: int, view: NodeView | None = None, **data: Any) -> Answered:
        """Have the node answer a request."""
        found = Answered({"success": True, "data": data}, None, "1", revision, view)
        self.roster.heard(self.roster.link("node-1"), action, found)
        return found

    def handle(self, machine: Any) -> Any:
        name = next(name for name, each in self.machines.items() if each is machine)
        return self.handles.get(name, HANDLE)

    def hear(self, said: NodeView | NodeChange, lease: float | None = None) -> None:
        self.roster.hear(News(Since(), (said,), {} if lease is None else {"node-1": lease}, ()))

    def _lost(self, node: str, why: str, view: NodeView, before: str, *, again: bool = False) -> None:
        if not again:
            self.losses.append(why)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Return a roster of one node that is there, with a lease."""
    return Told(monkeypatch)


def test_what_ends_late_says_nothing_of_a_node_that_is_back(told: Told) -> None:
    """Ray tells of an end up to a second later than the new worker tells of itself: that is no other loss."""
    before = told.roster.link("node-1")
    told.hear(view("2", down_ms=1.0))
    assert (told.losses, len(told.back)) == (["its worker died"], 1)
    before.lost(RuntimeError("Socket closed"), "memory.get_status")
    assert told.roster.condition("node-1").devices is None
    told.roster.link("node-1").lost(RuntimeError("Socket closed"), "memory.get_status")
    assert told.roster.condition("node-1").why == "is lost: its process died, or can't be reached"
    assert told.losses == ["its worker died", "its process died, or can't be reached"]


def test_a_worker_was_away_for_as_long_as_its_node_says(told: Told) -> None:
    """The gateway hears of the worker's death from the next one alone, when all of the time is over."""
    told.hear(view("2", down_ms=700.0))
    assert told.back[0] >= 0.7


def test_a_process_was_away_since_its_node_was_heard_of_last(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first worker knows of none before it; the gateway may hear of that one before Ray tells of the end."""
    from worker.fleet import roster

    now = [1000.0]
    monkeypatch.setattr(roster, "time", SimpleNamespace(monotonic=lambda: now[0], monotonic_ns=lambda: 0))
    told.answer("memory.get_status", 1)
    now[0] += 7
    told.hear(view("2"))
    assert (told.losses, told.back) == (["its process died, or can't be reached"], [7.0])


def test_a_node_that_is_lost_is_placed_on_once_it_is_back(told: Told) -> None:
    """Its lease goes on meanwhile: it is the directory's word, and the next may be half a second away."""
    assert told.roster.place(ANY).chosen is not None
    told.roster.link("node-1").lost(RuntimeError("Socket closed"), "memory.get_status")
    assert told.roster.place(ANY).chosen is None
    told.hear(view("2"))
    assert told.roster.place(ANY).chosen is not None


def test_why_it_goes_nowhere_is_told_as_it_was(told: Told) -> None:
    """Whoever asks does so later, when another thread may be changing what is known."""
    placement = told.roster.place(PlacementRequest(required_bytes=10))
    told.hear(change(view("1"), replace(view("1", 2), draining=True)))
    assert [each.cause for each in placement.why_passed()] == [Cause.NO_ROOM]


def test_bytes_that_were_freed_are_there_at_once(told: Told) -> None:
    """No view shows them yet; once one does they are counted by that alone."""
    needs_ten = PlacementRequest(required_bytes=10)
    told.answer("memory.deallocate", 2, allocation_id="alloc-1", device_id="cpu", freed_bytes=1)
    assert told.roster.place(needs_ten).chosen is not None
    assert told.roster.place(PlacementRequest(required_bytes=11)).chosen is None
    told.hear(change(view("1"), view("1", 2)))
    assert told.roster.place(needs_ten).chosen is None


def test_an_answer_with_a_view_is_known_before_the_directory_tells_of_it(told: Told) -> None:
    """Which may be dead meanwhile; what it tells later of the same goes on from there."""
    loaded = view("1", 2, models=(ModelView("m", ModelState.LOADED, 4, "cpu", names=("chat",)),))
    told.answer("memory.load_model", 2, loaded)
    chosen = told.roster.place(PlacementRequest(model_id="m")).chosen
    assert chosen is not None
    assert (chosen.step, chosen.revision) == (Step.LOADED, 2)
    assert [told.roster.meant(each, "node-1") for each in ("m", "chat", "none")] == ["m", "m", None]
    told.hear(change(view("1"), loaded))
    told.hear(change(loaded, view("1", 3)))
    assert told.roster.meant("chat", "node-1") is None


def test_what_goes_to_a_named_device_counts_from_its_sending_on(told: Told) -> None:
    """And no more where it is not answered."""
    told.hear(change(view("1"), view("1", 2, models=(ModelView("m", size_bytes=4),))))
    told.roster.reserve_named("load", "node-1/cpu", "m", 0)
    chosen = told.roster.place(PlacementRequest(model_id="m")).chosen
    assert chosen is not None
    assert chosen.step is Step.LOADING
    told.roster.reserve_named("bytes", "node-1/cpu", None, 4)
    assert told.roster.place(PlacementRequest(required_bytes=2)).chosen is None
    told.roster.settle("bytes", "node-1", None)
    assert told.roster.place(PlacementRequest(required_bytes=5)).chosen is not None
    told.roster.settle("load", "node-1", told.answer("memory.load_model", 3))
    assert told.roster.place(PlacementRequest(required_bytes=6)).chosen is None
    told.roster.reserve_named("refused", "node-1/none", "m", 0)


def states(told: Told, node: str) -> tuple[str, list[str]]:
    """Return how a node is, and its devices."""
    health = next(each.state for each in told.roster.health() if each.name == f"node:{node}")
    return health, [state for device, state in told.roster.devices() if device == f"{node}/cpu"]


def test_a_node_that_is_being_started_is_told_of_and_not_waited_for(told: Told) -> None:
    """Whoever asks all nodes has the answers of those that are there; what has to reach every node waits for it."""
    told.machines["node-2"] = SimpleNamespace(folder=None)
    told.roster.look_for_machines()
    assert states(told, "node-2") == ("starting", ["probing"])
    assert [each.node_id for each in told.roster.reachable()] == ["node-1"]
    assert [each.node_id for each in told.roster.reachable(starting=True)] == ["node-1", "node-2"]
    told.hear(replace(view("1"), node_id="node-2"))
    assert states(told, "node-2")[1] == ["available"]
    assert [each.node_id for each in told.roster.reachable()] == ["node-1", "node-2"]


def test_a_node_that_does_not_start_in_time_is_lost_until_it_does(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for it has an end, and it takes part once it tells of itself after all."""
    from worker.fleet import roster

    now = [1000.0]
    monkeypatch.setattr(roster, "time", SimpleNamespace(monotonic=lambda: now[0], monotonic_ns=lambda: 0))
    told.machines["node-2"] = SimpleNamespace(folder=None)
    told.roster.look_for_machines()
    now[0] += 121
    told.roster.look_for_machines()
    assert states(told, "node-2") == ("failed", ["lost"])
    assert told.roster.condition("node-2").why == "is lost: it did not start in 120 s"
    assert told.losses == []  # nothing was there
    told.hear(replace(view("1"), node_id="node-2"))
    assert (told.roster.condition("node-2").devices, told.back) == (None, [121.0])


def test_a_node_that_hangs_is_asked_nothing_until_it_answers(told: Told) -> None:
    """It is not lost: nothing is told as gone. Whatever is heard of it shows that it is there."""
    link = told.roster.link("node-1")
    told.roster.silence.ask(link, since=time.monotonic() - 60)
    assert told.roster.reachable() == ()
    assert told.roster.place(ANY).chosen is None
    assert states(told, "node-1") == ("degraded", ["available"])
    with pytest.raises(DeviceUnavailableError, match="node-1 has answered nothing for 60 s") as refused:
        told.roster.link("node-1")
    assert refused.value.executed is Executed.NO
    told.hear(change(view("1"), view("1", 2)), lease=60.0)
    assert told.roster.link("node-1") is link
    assert told.roster.place(ANY).chosen is not None
    assert told.losses == []


def test_a_node_that_the_directory_does_not_hear_of_is_asked_whether_it_is_there(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is known that it hangs before anything waits for it."""
    asked: list[str] = []
    ping = HANDLE.ping.remote
    monkeypatch.setattr(HANDLE.ping, "remote", lambda: asked.append("asked") or ping())
    told.hear(view("1", 2), lease=60.0)
    assert asked == []
    told.hear(view("1", 3))
    told.hear(view("1", 4))
    assert asked == ["asked"]


def test_what_is_sent_to_a_node_reaches_it_once_it_told_of_itself(told: Told) -> None:
    """Where it is lost instead, whoever waits is told so."""
    sent: list[str] = []
    handle = SimpleNamespace(
        watch=HANDLE.watch, ping=HANDLE.ping, call=SimpleNamespace(remote=lambda _: sent.append("sent"))
    )
    told.handles.update({"node-2": handle, "node-3": handle})
    told.machines |= {"node-2": SimpleNamespace(folder=None), "node-3": SimpleNamespace(folder=None)}
    told.roster.look_for_machines()
    asked = [told.roster.link(each).send("memory.allocate", {}, {}) for each in ("node-2", "node-3")]
    told.hear(replace(view("1"), node_id="node-2"))
    assert sent == ["sent"]
    told.roster.link("node-3").lost(RuntimeError("Socket closed"), "memory.get_status")
    with pytest.raises(DeviceUnavailableError, match="node-3 is lost"):
        asked[1].answer(Call(CancelToken(lambda: 0), no_report))


def test_nodes_of_the_gateways_own_machine_are_not_waited_for_by_what_its_files_say(told: Told) -> None:
    """All of them read the same with the same options; those of another machine may have others."""
    token = CancelToken(lambda: 0)
    token.cancel()
    told.machines["node-2"] = SimpleNamespace(folder="here")
    told.roster.look_for_machines()
    assert not told.roster.await_start(token, elsewhere=True)
    told.machines["other-1"] = SimpleNamespace(folder=None)
    told.roster.look_for_machines()
    with pytest.raises(CancelledError):
        told.roster.await_start(token, elsewhere=True)


def test_what_waits_for_a_node_goes_on_once_it_is_there_or_lost(told: Told) -> None:
    """And does not wait where none is being started; a request's own end is heeded meanwhile."""
    token = CancelToken(lambda: 0)
    assert not told.roster.await_start(token)
    told.machines["node-2"] = SimpleNamespace(folder=None)
    told.roster.look_for_machines()
    starting = told.roster.reachable(starting=True)[1]
    stopped = CancelToken(lambda: 0)
    stopped.cancel()
    with pytest.raises(CancelledError):
        told.roster.await_start(stopped)
    waiting = Thread(target=told.roster.await_start, args=(token,))
    waiting.start()
    starting.lost(RuntimeError("Socket closed"), "memory.get_status")
    waiting.join(60)
    assert not waiting.is_alive()
