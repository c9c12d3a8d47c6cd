"""vLLM over real HTTP: its sleep is told by levels, and it is woken by who put it to sleep."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.rigs.model_servers import (
    VllmStandIn,
)
from tests.unit.servers.opened import GIB, Open, opened, waited_for
from worker.core.records import HOST
from worker.servers import vllm
from worker.servers.base import ServerError, Sleeps, Step, tell

__all__ = ["opened", "waited_for"]


class Vllm:
    """A vLLM with a GiB."""

    def __init__(
        self,
        opened: Open,
        monkeypatch: pytest.MonkeyPatch,
        free_memory: int = 64 * GIB,
        device_id: str = "cuda:0",
    ) -> None:
        made, self.server = opened("vllm", device_id, models={"m": GIB})
        assert isinstance(made, VllmStandIn)
        self.made = made
        monkeypatch.setattr(vllm.psutil, "virtual_memory", lambda: SimpleNamespace(available=free_memory))

    def steps(self) -> tuple[Step, ...]:
        """Return what it gives back, its process being seen to hold a GiB."""
        seen = self.server.look()
        models = tuple(replace(each, size_bytes=GIB) for each in seen.models)
        return self.server.steps(replace(seen, models=models))

    def wake(self, free_bytes: int | None) -> bool:
        """Have it wake if it may."""
        assert isinstance(self.server, Sleeps)
        return self.server.wake(free_bytes)


@pytest.mark.parametrize(
    ("device_id", "free_memory", "level"), [("cuda:0", 64 * GIB, 1), ("cuda:0", GIB, 2), (HOST, 64 * GIB, 2)]
)
def test_vllm(
    opened: Open, monkeypatch: pytest.MonkeyPatch, device_id: str, free_memory: int, level: int
) -> None:
    """It sleeps as a whole: at level 2 where the machine has no memory for its weights, or that is what is wanted; asleep it has nothing."""
    up = Vllm(opened, monkeypatch, free_memory, device_id)
    (step,) = up.steps()
    assert step.bytes < GIB
    assert tell(up.server, step)
    assert up.made.told == [f"unload level={level}"]
    assert up.server.look().models == ()
    assert up.server.is_done(step, up.server.look())


def test_vllm_that_answers_is_not_put_to_sleep(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """That would break off the answer; its metrics say so even where it does not count its load."""
    up = Vllm(opened, monkeypatch)
    (step,) = up.steps()
    up.made.busy = True
    assert up.steps() == ()
    up.made.counts = False
    assert up.steps() != ()
    assert not tell(up.server, step)
    assert up.made.told == []


def test_vllm_whose_metrics_are_odd_is_not_put_to_sleep(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can't be read tells of no idleness: that is its server's fault, and no order is given."""
    up = Vllm(opened, monkeypatch)
    (step,) = up.steps()
    up.made.running = "many"
    with pytest.raises(ServerError, match="does not say whether"):
        tell(up.server, step)
    assert up.made.told == []


def test_vllm_without_sleep_mode(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is seen, and nothing is asked of it."""
    up = Vllm(opened, monkeypatch)
    up.made.sleeps = False
    assert [each.name for each in up.server.look().models] == ["m"]
    assert up.steps() == ()


@pytest.mark.parametrize(
    ("free_memory", "orders"),
    [
        (64 * GIB, ["/wake_up"]),
        (GIB, ["/wake_up?tags=weights", "/collective_rpc reload_weights", "/wake_up?tags=kv_cache"]),
    ],
)
def test_vllm_is_woken_by_who_put_it_to_sleep(
    opened: Open, monkeypatch: pytest.MonkeyPatch, free_memory: int, orders: list[str]
) -> None:
    """Asleep it answers no one: it is woken where a request waits and it fits, with its weights loaded where they were dropped.

    What waking took is its price from then on.
    """
    up = Vllm(opened, monkeypatch, free_memory)
    (step,) = up.steps()
    tell(up.server, step)
    assert not up.wake(GIB)
    assert isinstance(up.server, Sleeps)
    how = up.server.asleep or ""
    assert [each.partition(" ")[0] in how for each in orders] == [True] * len(orders)
    up.made.waiting = 1
    assert not up.wake(GIB // 2)
    assert up.wake(GIB)
    assert up.server.asleep is None
    assert up.made.told[1:] == orders
    up.made.waiting = 0
    (again,) = up.steps()
    assert again.rebuild_ms is not None
    assert again.rebuild_ms != step.rebuild_ms
    assert not up.wake(GIB)


def test_vllm_is_woken_where_there_is_room_again(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though no request is counted: after a while, and where as much as it takes stays free."""
    up = Vllm(opened, monkeypatch)
    up.made.counts = False
    tell(up.server, *up.steps())
    assert not up.wake(4 * GIB)
    monkeypatch.setattr(vllm, "_ASLEEP_S", 0.0)
    assert not up.wake(None)
    assert not up.wake(GIB)
    assert up.wake(4 * GIB)
    assert up.server.look().models != ()


def test_vllm_that_someone_else_put_to_sleep_is_left_alone(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after it was put to sleep here, and woken by someone else meanwhile."""
    up = Vllm(opened, monkeypatch)
    monkeypatch.setattr(vllm, "_ASLEEP_S", 0.0)
    for _ in range(2):
        up.made.loaded.clear()
        assert not up.wake(4 * GIB)
        up.made.loaded.append("m")
        tell(up.server, *up.steps())
        up.made.loaded.append("m")
        up.server.look()
