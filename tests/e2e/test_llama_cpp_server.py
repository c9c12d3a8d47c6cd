"""llama.cpp's own server beside a worker: what it really holds is seen, and really comes back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import urllib3

from tests.e2e.process import MIB, Worker, eventually, worker
from tests.rigs.gguf_models import write_llama
from tests.rigs.llama_cpp import LlamaCpp, LlamaSwap, llama_cpp
from tests.rigs.model_servers import serving

WEIGHTS_BYTES = 90 * MIB
"""What the model takes at least."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of some 100 MB, with random weights."""
    return write_llama(tmp_path_factory.mktemp("models") / "tiny.gguf", layers=2, width=1024, inner=2816)


@contextmanager
def beside(tmp_path: Path, kind: str, url: str) -> Iterator[Worker]:
    """Start a worker that follows one server, whose models are in the machine's memory."""
    path = tmp_path / "models.yaml"
    path.write_text(f"servers: {{here: {{kind: {kind}, url: '{url}', device: cpu}}}}\n")
    with worker("--models", str(path), "--log-level", "info") as up:
        yield up


def row(up: Worker) -> dict[str, Any] | None:
    """Return the model that is loaded there; None for none."""
    rows: list[dict[str, Any]] = up.call("memory.get_model_status")["models"]
    return next((each for each in rows if each["state"] == "loaded"), None)


def ask(server: LlamaCpp) -> None:
    """Have it complete a text, and so load its model."""
    answer = urllib3.request(
        "POST", f"{server.url}/completion", json={"prompt": "a", "n_predict": 2}, timeout=60.0, retries=False
    )
    assert answer.status == 200, answer.data


def test_it_is_followed_and_sleeps_all_the_same(tmp_path: Path, model: Path) -> None:
    """Its model is there with the bytes of its process; being asked keeps it from no sleep, and then it has none."""
    with llama_cpp(model, idle_s=2) as server, beside(tmp_path, "llama-server", server.url) as up:
        ask(server)
        found = eventually(lambda: row(up), "the model to be seen")
        assert found is not None
        assert found["model_id"] == "here/tiny"
        assert found["declared_bytes"] >= WEIGHTS_BYTES
        eventually(lambda: row(up) is None, "the server to sleep")
        assert psutil.Process(server.process.pid).memory_info().rss < WEIGHTS_BYTES
        ask(server)
        eventually(lambda: row(up) is not None, "the model to be seen again")


def test_an_upstream_gives_its_memory_back(tmp_path: Path, model: Path) -> None:
    """What a process behind llama-swap holds is known by its port; unloaded, it has ended, and its bytes are told."""
    with llama_cpp(model) as server:
        ask(server)
        held = psutil.Process(server.process.pid).memory_info().rss
        with (
            serving(LlamaSwap({"tiny": server})) as url,
            beside(tmp_path, "llama-swap", url) as up,
        ):
            eventually(lambda: row(up) is not None, "the model to be seen")
            (consumer,) = (
                each
                for each in up.call("memory.get_consumers")["consumers"]
                if each["consumer_id"] == "server:here"
            )
            assert consumer["held_bytes"] == pytest.approx(held, rel=0.1)
            assert consumer["held_bytes"] >= WEIGHTS_BYTES
            done = up.call("memory.unload_model", {"model_id": "here/tiny"})
            assert done["freed_bytes"] == pytest.approx(held, rel=0.1)
            assert server.process.poll() is not None
            assert row(up) is None


def test_an_upstream_that_answers_is_not_ended(tmp_path: Path, model: Path) -> None:
    """Its request is answered in full."""
    with llama_cpp(model) as server:
        swap = LlamaSwap({"tiny": server})
        with serving(swap) as url, beside(tmp_path, "llama-swap", url) as up:
            eventually(lambda: row(up) is not None, "the model to be seen")
            swap.answering = ("tiny",)
            assert "in use" in up.refused("memory.unload_model", {"model_id": "here/tiny"})["message"]
            ask(server)
            swap.answering = ()
            up.call("memory.unload_model", {"model_id": "here/tiny"})
            assert server.process.poll() is not None
