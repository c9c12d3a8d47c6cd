"""Each kind of model server over real HTTP: what it says is understood, what it is told is done, and nothing else holds us up."""

import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from tests.rigs.model_servers import (
    STAND_INS,
    LlamaSwapStandIn,
    OllamaStandIn,
    serving,
)
from tests.unit.servers.opened import GIB, SIZES, Open, opened, waited_for
from worker.core.models import ServerSpec
from worker.servers import http, ollama
from worker.servers.base import Served, ServerError, Step, tell
from worker.servers.http import Http
from worker.servers.known import open_server

__all__ = ["opened", "waited_for"]


@pytest.mark.parametrize(("device_id", "share"), [("cuda:0", 1), ("cpu", 10 / 9 - 1)])
def test_ollama(opened: Open, device_id: str, share: float) -> None:
    """What is on the GPU counts there, the rest on the machine; one model is unloaded, by name."""
    made, server = opened("ollama", device_id)
    seen = server.look()
    assert {each.name: each.size_bytes for each in seen.models} == {
        name: pytest.approx(size * share, abs=2) for name, size in SIZES.items()
    }
    step = next(each for each in server.steps(seen) if each.model == "large")
    assert tell(server, step)
    assert made.told == ["unload large"]
    assert server.is_done(step, server.look())


class Ollama:
    """An Ollama, and looks at one model of it that are as far apart as is said."""

    def __init__(self, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        made, self.server = opened("ollama")
        assert isinstance(made, OllamaStandIn)
        self.made = made
        made.stands_at = start = datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
        for name in made.sizes:
            made.use(name)
        monkeypatch.setattr(ollama, "_now", lambda: start + timedelta(seconds=made.ahead_s))
        monkeypatch.setattr(ollama, "time", SimpleNamespace(monotonic=lambda: made.ahead_s))

    def later(self, seconds: float) -> Served:
        """Look at it after a time."""
        self.made.ahead_s += seconds
        found = self.server.look().model("small")
        assert found is not None
        return found


def test_ollama_tells_of_uses_by_when_models_expire(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A use moves that; a model that stays idle is not used, and what it is told itself is no use."""
    up = Ollama(opened, monkeypatch)
    first, idle = up.later(0), up.later(100)
    assert (first.used, first.busy) == (idle.used, idle.busy)
    up.made.use("small")
    used = up.later(50)
    assert (used.used != idle.used, used.busy) == (True, False)
    up.made.keeps = True
    up.server.give_back(Step("unloaded", GIB, "small"))
    assert up.later(2).used == used.used


def test_ollama_is_in_use_while_its_timer_stands(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a model answers, its time is past; while it loads, its time is as far from now at each look. Both are not asked."""
    up = Ollama(opened, monkeypatch)
    idle = up.later(0)
    up.made.begin("small")
    answering = up.later(1)
    assert (answering.busy, answering.used) == (True, idle.used)
    assert [each.model for each in up.server.steps(up.server.look())] == ["large"]
    up.made.use("small")
    assert not up.later(1).busy
    up.made.first.add("small")
    assert [up.later(1).busy for _ in range(3)] == [False, True, True]
    assert up.later(0.01).busy  # too soon after the last to tell: as it was
    up.made.first.clear()
    up.made.use("small")
    assert not up.later(3).busy


@pytest.mark.parametrize(
    "said", [None, 7, "soon", "2026-01-01T00:00:00", "9" * 99, "9999-12-31T23:59:59-23:59"]
)
def test_ollama_says_nonsense_of_when_a_model_expires(said: object) -> None:
    """Then it is not known to be in use, and no look fails."""
    found = ollama._read(said, None, datetime.now(UTC), 0.0)
    assert found is None or not found.busy


def test_ollama_that_is_asked_for_long_is_in_use_all_the_same() -> None:
    """As on a busy machine: when it said what it said is known no better, and a model that may be loading is not asked to go."""
    start = datetime(2026, 1, 1, tzinfo=UTC)

    def looked(before: ollama._Expiry | None, said_s: float, heard_s: float, took_s: float) -> ollama._Expiry:
        expires, now = (start + timedelta(seconds=each) for each in (said_s + 300, heard_s))
        found = ollama._read(expires.isoformat(), before, now, took_s)
        assert found is not None
        return found

    first = looked(None, 0.0, 0.0, 0.001)
    late = looked(first, 1.0, 1.3, 0.4)
    assert late.busy
    assert looked(late, 2.0, 2.0, 0.001).busy
    assert not looked(first, 0.5, 1.0, 0.001).busy  # it was used in between


def test_comfyui(opened: Open) -> None:
    """Its models are one, torch's cache goes with them; a queue that runs is busy, and then it offers nothing."""
    made, server = opened("comfyui")
    (model,) = server.look().models
    assert (model.name, model.size_bytes) == ("models", 5 * GIB)
    made.busy = True
    assert server.steps(server.look()) == ()
    made.busy = False
    (step,) = server.steps(server.look())
    assert step.bytes == 5 * GIB + 100_000_000
    server.give_back(step)
    assert server.is_done(step, server.look())
    assert server.steps(server.look()) == ()


def test_comfyui_keeps_what_it_computed(opened: Open) -> None:
    """Where unloading left something, the next step drops what it computed as well."""
    made, server = opened("comfyui")
    made.keeps = True
    (first,) = server.steps(server.look())
    server.give_back(first)
    (second,) = server.steps(server.look())
    assert (first.name, second.name) == ("unloaded", "unloaded, and what it computed dropped")


def test_comfyui_cache_costs_nothing(opened: Open) -> None:
    """What torch keeps beside no model is free to have again."""
    _, server = opened("comfyui", models={})
    (step,) = server.steps(server.look())
    assert (step.model, step.bytes, step.rebuild_ms) == (None, 100_000_000, 0.0)
    server.give_back(step)
    assert server.is_done(step, server.look())


@pytest.mark.parametrize("kind", ["llama-swap", "llama-server"])
def test_routers(opened: Open, kind: str) -> None:
    """Each model has a process of its own, by its port; one that starts is busy; a name may be a path."""
    made, server = opened(kind, models={"org/model:8b": GIB, "other": GIB})
    made.ports = {"org/model:8b": 4711}
    found = server.look()
    assert [each.port for each in found.models] == [4711, 1]
    assert server.steps(found) == ()  # without bytes there is nothing to offer
    made.busy = True
    assert all(each.busy for each in server.look().models)
    server.give_back(Step("unloaded", GIB, "org/model:8b"))
    assert made.told == ["unload org/model:8b"]
    assert [each.name for each in server.look().models] == ["other"]


def test_llama_swap_breaks_off_what_an_upstream_answers(opened: Open) -> None:
    """So one that answers is not told; nor is any where it does not tell of that."""
    made, server = opened("llama-swap")
    assert isinstance(made, LlamaSwapStandIn)
    made.answering = ("small",)
    assert not tell(server, Step("unloaded", GIB, "small"))
    assert tell(server, Step("unloaded", GIB, "large"))
    assert made.told == ["unload large"]
    made.in_flight = False
    with pytest.raises(ServerError):
        tell(server, Step("unloaded", GIB, "small"))
    assert made.told == ["unload large"]


def test_openai_is_asked_and_never_told(opened: Open) -> None:
    """What it serves is listed, and nothing is offered of it."""
    _, server = opened("openai")
    seen = server.look()
    assert [each.name for each in seen.models] == list(SIZES)
    assert server.steps(seen) == ()


@pytest.mark.parametrize("kind", STAND_INS)
@pytest.mark.parametrize("mode", ["slow", "hung", "huge", "text", "other", "broken", "moved", "headers"])
def test_a_server_that_misbehaves(
    opened: Open, kind: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it does, it ends in a sentence, in bounded time; nothing of it reaches a terminal, and no redirect is followed."""
    made, server = opened(kind)
    made.mode = mode
    with monkeypatch.context() as hasty:
        hasty.setattr(http, "ANSWER_S", 0.3)
        with pytest.raises(ServerError) as said:
            server.look()
    assert "\x1b" not in str(said.value)
    made.mode = "well"
    server.look()


def test_a_server_that_is_not_there(opened: Open) -> None:
    """That is told in the same way."""
    http_to_none = Http("http://127.0.0.1:1")
    with pytest.raises(ServerError, match="nothing answers there"):
        http_to_none.get("/api/ps")
    assert opened is not None


def test_authorization_comes_out_of_the_environment(opened: Open) -> None:
    """It is sent, it is in no message, and one that is missing or wrong is a sentence."""
    made, _ = opened("ollama")
    made.authorization = "Bearer s3cret"
    with serving(made) as url:
        spec = ServerSpec("o", "ollama", url, authorization_env="OLLAMA_KEY")
        right = open_server(spec, "cuda:0", {"OLLAMA_KEY": "Bearer s3cret"}).server
        assert len(right.look().models) == 2
        wrong = open_server(spec, "cuda:0", {"OLLAMA_KEY": "Bearer wr0ng"}).server
        with pytest.raises(ServerError, match="it wants another authorization") as said:
            wrong.look()
        assert "wr0ng" not in str(said.value)
        for value in ({}, {"OLLAMA_KEY": "a\r\nb: c"}):
            with pytest.raises(ValueError, match="OLLAMA_KEY"):
                open_server(spec, "cuda:0", value)
        right.close()
        wrong.close()


def test_many_ask_at_once(opened: Open) -> None:
    """A server may be asked by several threads."""
    _, server = opened("ollama")
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(server.look().models))) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == [2] * 8
