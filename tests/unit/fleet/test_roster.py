"""What a gateway knows of its nodes, and what becomes of that where one is lost and comes back. Ray itself is stood in for."""

from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.vocabulary import DeviceKind
from worker.fleet.changes import change
from worker.fleet.views import Cause, DeviceView, NodeChange, NodeView, PlacementRequest
from worker.fleet.words import News, Since

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")
HANDLE = SimpleNamespace(watch=SimpleNamespace(remote=object), leave=SimpleNamespace(remote=object))
ANY = PlacementRequest(required_bytes=4)


def view(incarnation: str, revision: int = 1, **more: Any) -> NodeView:
    device = DeviceView("cpu", DeviceKind.CPU, available_bytes=9)
    return NodeView("node-1", incarnation, revision, (device,), **more)


class Told:
    """What the roster told of losses, and after how many seconds a node was back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from worker.fleet import roster

        monkeypatch.setattr(roster.ray, "cancel", lambda ref: None)
        cluster: Any = SimpleNamespace(directory=lambda: None, node=lambda machine, options: HANDLE)
        self.losses: list[str] = []
        self.back: list[float] = []
        machines: Any = {"node-1": SimpleNamespace(folder=None)}
        self.roster = roster.Roster(
            cluster, "g", lambda: machines, (), lambda *event: None, self._lost, lambda *back: self.back.append(back[1])
        )  # fmt: skip
        self.roster._look_for_machines()
        self.hear(view("1"), lease=60.0)

    def hear(self, said: NodeView | NodeChange, lease: float | None = None) -> None:
        self.roster._hear(News(Since(), (said,), {} if lease is None else {"node-1": lease}, ()))

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
    told.hear(view("2"))
    assert (told.losses, len(told.back)) == (["its worker died"], 1)
    before.lost(RuntimeError("Socket closed"), "memory.get_status")
    assert told.roster.why_lost("node-1") is None
    told.roster.link("node-1").lost(RuntimeError("Socket closed"), "memory.get_status")
    assert told.roster.why_lost("node-1") == "Socket closed"
    assert told.losses == ["its worker died", "Socket closed"]


def test_a_worker_was_away_for_as_long_as_its_node_says(told: Told) -> None:
    """The gateway hears of the worker's death from the next one alone, when all of the time is over."""
    told.hear(view("2", down_ms=700.0))
    assert told.back[0] >= 0.7


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
