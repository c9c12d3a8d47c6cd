"""Each kind of model server over real HTTP: what it says is understood, what it is told is done, and nothing else holds us up."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.rigs.model_servers import STAND_INS, StandIn, serving
from worker.core.models import ServerSpec
from worker.servers import http
from worker.servers.base import ModelServer, ServerError
from worker.servers.http import Http
from worker.servers.known import open_server

GIB = 2**30
SIZES = {"small": GIB, "large": 4 * GIB}


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ANSWER_S", 0.3)


@pytest.fixture
def opened() -> Iterator["Open"]:
    """Return what serves a stand-in, and asks it."""
    with ExitStack() as stack:
        yield Open(stack)


class Open:
    """Serves stand-ins until the test is over."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(
        self, kind: str, device_id: str = "cuda:0", models: dict[str, int] | None = None
    ) -> tuple[StandIn, ModelServer]:
        made = STAND_INS[kind](SIZES if models is None else models)
        url = self._stack.enter_context(serving(made))
        found = open_server(ServerSpec(kind, kind, url), device_id)
        self._stack.callback(found.server.close)
        return made, found.server


@pytest.mark.parametrize(("device_id", "share"), [("cuda:0", 1), ("cpu", 10 / 9 - 1)])
def test_ollama(opened: Open, device_id: str, share: float) -> None:
    """What is on the GPU counts there, the rest on the machine; one model is unloaded, by name; a use is seen."""
    made, server = opened("ollama", device_id)
    seen = server.look()
    assert {each.name: each.size_bytes for each in seen.models} == {
        name: pytest.approx(size * share, abs=2) for name, size in SIZES.items()
    }
    before = seen.model("small")
    made.use("small")
    after = server.look().model("small")
    assert before is not None
    assert after is not None
    assert before.used != after.used
    step = next(each for each in server.steps(seen) if each.model == "large")
    server.give_back(step)
    assert made.told == ["unload large"]
    assert server.is_done(step, server.look())


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
    made.ports = {"org/model:8b": 4711}  # type: ignore[attr-defined]
    found = server.look()
    assert [each.port for each in found.models] == [4711, 1]
    assert server.steps(found) == ()  # without bytes there is nothing to offer
    made.busy = True
    assert all(each.busy for each in server.look().models)
    from worker.servers.base import Step

    server.give_back(Step("unloaded", GIB, "org/model:8b"))
    assert made.told == ["unload org/model:8b"]
    assert [each.name for each in server.look().models] == ["other"]


def test_vllm(opened: Open) -> None:
    """It sleeps as a whole, not while it answers; asleep it has nothing."""
    from dataclasses import replace

    made, server = opened("vllm", models={"m": GIB})
    seen = server.look()
    seen = replace(seen, models=tuple(replace(each, size_bytes=GIB) for each in seen.models))
    (step,) = server.steps(seen)
    assert step.bytes < GIB
    made.busy = True
    assert server.look().busy
    server.give_back(step)
    assert made.told in (["unload level=1"], ["unload level=2"])
    assert server.look().models == ()
    assert server.is_done(step, server.look())


def test_openai_is_asked_and_never_told(opened: Open) -> None:
    """What it serves is listed, and nothing is offered of it."""
    _, server = opened("openai")
    seen = server.look()
    assert [each.name for each in seen.models] == list(SIZES)
    assert server.steps(seen) == ()


@pytest.mark.parametrize("kind", STAND_INS)
@pytest.mark.parametrize("mode", ["slow", "hung", "huge", "text", "other", "broken", "moved"])
def test_a_server_that_misbehaves(opened: Open, kind: str, mode: str) -> None:
    """Whatever it does, it ends in a sentence, in bounded time; nothing of it reaches a terminal, and no redirect is followed."""
    made, server = opened(kind)
    made.mode = mode
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
