"""A node looks at its worker whatever becomes of what it tells."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.vocabulary import DeviceKind
from tests.e2e.process import PATIENCE_SECONDS, eventually
from worker.fleet.pace import Pace
from worker.fleet.views import DeviceView, NodeView
from worker.fleet.words import Guard, Heard, Told

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")
MUCH = 2**30


class Directory:
    """Stands in for the actor: answers once it may; and has a node's threads end, which in its process never do."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.told: list[Told] = []
        self.tell = SimpleNamespace(remote=self._tell)
        self.node: Any = None
        self._threads: list[threading.Thread] = []
        self._over = False

    def start_thread(self, run: Callable[[], None], name: str) -> None:
        def ended() -> None:
            with suppress(SystemExit):
                run()

        self._threads.append(threading.Thread(target=ended, name=name, daemon=True))
        self._threads[-1].start()

    def events(self) -> list[Any]:
        """Ask the worker for its events: who tells does."""
        if self._over:
            raise SystemExit
        return []

    def restart(self) -> bool:
        """Have the worker run: who looks does, and is there for as long as who tells."""
        if self._over and sum(each.is_alive() for each in self._threads) < len(self._threads):
            raise SystemExit
        return True

    def end(self) -> None:
        self._over = True
        self.answers.set()
        eventually(self._ended, "the end of the node's threads")

    def _ended(self) -> bool:
        if self.node is not None:
            self.node.note_change()
        return not any(each.is_alive() for each in self._threads)

    def _tell(self, told: Told) -> Heard:
        self.answers.wait()
        self.told.append(told)
        return Heard(known=True, gateways=())


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Directory]:
    """Return a directory that does not answer yet."""
    from worker.fleet import telling

    found = Directory()
    monkeypatch.setattr(telling.ray, "get_actor", lambda *_: found)
    monkeypatch.setattr(telling.ray, "get", lambda answer, timeout: answer)
    monkeypatch.setattr(telling, "start_thread", found.start_thread)
    yield found
    found.end()


def test_an_answer_shows_what_was_done_while_the_directory_is_dead(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told later, in the order in which it was seen; what was decided by an older view is refused with the newer one."""
    from worker.fleet import telling

    free = [MUCH]

    class Observer:
        incarnation = "a"

        def __init__(self, *_: Any) -> None:
            pass

        def observe(self, _ask: Any, **_more: Any) -> NodeView:
            return NodeView("n", "a", 0, (DeviceView("cpu", DeviceKind.CPU, available_bytes=free[0]),))

    monkeypatch.setattr(telling, "Observer", Observer)
    worker: Any = SimpleNamespace(
        restart=directory.restart, incarnation="a", ask=None, down_ms=0,
        take_events=directory.events, put_back=lambda _: None,
    )  # fmt: skip
    node = directory.node = telling.Telling("n", Pace(), lambda _: None)
    node.start(worker)

    def seen() -> NodeView:
        found = asyncio.run(node.view_from_now())
        assert found is not None
        return found

    first = seen()
    free[0] = 4 * MUCH
    second = seen()
    assert (second.devices[0].available_bytes, second.revision) == (4 * MUCH, first.revision + 1)
    assert "a lease" in (node.why_not(Guard("a", second.revision))[0] or "")
    directory.answers.set()
    eventually(lambda: node.why_not(Guard("a", second.revision)) == (None, None), "a lease")
    assert node.why_not(Guard("a", first.revision))[1] == second
    revisions = [each.said.revision for each in directory.told if each.said is not None]
    assert revisions == sorted(revisions)


def test_a_node_whose_worker_hangs_learns_which_gateways_there_are(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has nothing to tell, and keeps no lease by that; but where no gateway is left it has to end, and its worker."""
    from worker.fleet import telling

    hangs, heard = threading.Event(), threading.Event()

    class Observer:
        incarnation = "a"

        def __init__(self, *_: Any) -> None:
            pass

        def observe(self, _ask: Any, **_more: Any) -> NodeView:
            hangs.wait()
            raise SystemExit

    monkeypatch.setattr(telling, "Observer", Observer)
    monkeypatch.setattr(telling, "_BEAT_SECONDS", 0.01)
    worker: Any = SimpleNamespace(
        restart=lambda: True, incarnation="a", down_ms=0, ask=None, take_events=directory.events, put_back=lambda _: None,
    )  # fmt: skip
    directory.answers.set()
    node = directory.node = telling.Telling("n", Pace(), lambda _: heard.set())
    node.start(worker)
    try:
        assert heard.wait(PATIENCE_SECONDS)
        assert directory.told[0].said is None
        assert "a lease" in (node.why_not(Guard("a", 1))[0] or "")
    finally:
        hangs.set()
