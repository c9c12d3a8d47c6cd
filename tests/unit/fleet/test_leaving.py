"""How a gateway leaves, also where nodes hang. Ray itself is stood in for."""

from concurrent.futures import Future
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")


class Ref:
    """What Ray answers by; where it does, with what."""

    def __init__(self, name: str, *answer: Any) -> None:
        self.name = name
        self.answer = answer

    def future(self) -> Future[Any]:
        return Future()


class Ray:
    """What is waited for, and who is killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from worker.fleet import leaving

        self.waits: list[list[str]] = []
        self.killed: list[str] = []
        for name in ("wait", "get", "kill"):
            monkeypatch.setattr(leaving.ray, name, getattr(self, name))

    def wait(self, refs: list[Ref], **_: Any) -> tuple[list[Ref], list[Ref]]:
        self.waits.append([each.name for each in refs])
        return [each for each in refs if each.answer], [each for each in refs if not each.answer]

    def get(self, ref: Ref) -> Any:
        if isinstance(ref.answer[0], Exception):
            raise ref.answer[0]
        return ref.answer[0]

    def kill(self, handle: str, *, no_restart: bool) -> None:
        assert no_restart
        self.killed.append(handle)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    return Ray(monkeypatch)


def link(name: str, *answer: Any) -> Any:
    """Return a node's link; without an answer nothing comes of it."""
    return SimpleNamespace(
        node_id=name,
        handle=name,
        ping=lambda: Ref(f"ping {name}", *answer),
        leave=lambda: Ref(f"leave {name}", *answer),
    )


def directory(*answer: Any) -> Any:
    """Return a directory that says whether no gateway is left."""
    return SimpleNamespace(leave=SimpleNamespace(remote=lambda _: Ref("directory", *answer)))


def test_only_nodes_that_answer_are_waited_for(ray: Ray) -> None:
    """One that began to hang a moment ago, and of which that is not known, frees what there is once it goes on."""
    from worker.fleet.leaving import leave

    leave([link("there", None), link("stopped")], [], directory(True), "g", 8.0)
    assert ray.waits == [["directory", "ping there", "ping stopped"], ["leave there"]]
    assert ray.killed == []


@pytest.mark.parametrize(("answer", "killed"), [((True,), ["stopped"]), ((False,), []), ((), [])])
def test_the_last_gateway_kills_nodes_that_hang(ray: Ray, answer: tuple[Any, ...], killed: list[str]) -> None:
    """Others may have use of them yet; where the directory says nothing, it is not known that there are none."""
    from worker.fleet.leaving import leave

    leave([], [link("stopped")], directory(*answer), "g", 8.0)
    assert (ray.waits, ray.killed) == ([["directory"]], killed)


def test_without_a_directory_no_node_is_killed(ray: Ray) -> None:
    """It died just now: Ray starts it again, and others may be there."""
    from worker.fleet.leaving import leave
    from worker.fleet.links import LOST

    leave([], [link("stopped")], directory(LOST[0]()), "g", 8.0)
    assert ray.killed == []
