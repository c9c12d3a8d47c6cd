"""Other model servers beside a real worker: seen, priced, asked by plan, and never waited for without bound."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import MIB, PATIENCE_SECONDS, ROOT, Worker, eventually, worker
from tests.rigs.model_servers import STAND_INS, StandIn, serving

SIZES = {"idle": 40 * MIB, "other": 8 * MIB}


@contextmanager
def beside(tmp_path: Path, *servers: tuple[str, StandIn], options: tuple[str, ...] = ()) -> Iterator[Worker]:
    """Start a worker that follows stand-ins on a simulated device of 64 MiB."""
    with ExitStack() as stack:
        rows = []
        for kind, made in servers:
            url = stack.enter_context(serving(made))
            rows.append(f"  {kind}: {{kind: {kind}, url: '{url}', device: 'sim:0'}}\n")
        path = tmp_path / "models.yaml"
        path.write_text("servers:\n" + "".join(rows))
        yield stack.enter_context(
            worker("--models", str(path), "--simulated-device", "64MiB", "--log-level", "info", *options)
        )


def models(up: Worker) -> dict[str, dict[str, Any]]:
    """Return the models by id."""
    return {row["model_id"]: row for row in up.call("memory.get_model_status")["models"]}


def consumer(up: Worker, name: str) -> dict[str, Any]:
    """Return a consumer."""
    rows: list[dict[str, Any]] = up.call("memory.get_consumers")["consumers"]
    return next(row for row in rows if row["consumer_id"] == name)


def seen(up: Worker, *names: str) -> None:
    """Wait until exactly these models are loaded."""
    eventually(
        lambda: {name for name, row in models(up).items() if row["state"] == "loaded"} == set(names),
        f"{names} to be loaded",
    )


def test_models_are_external_ones(tmp_path: Path) -> None:
    """What a server has loaded is listed with its bytes, as held elsewhere; what it unloads is seen to go."""
    ollama = STAND_INS["ollama"](SIZES)
    with beside(tmp_path, ("ollama", ollama)) as up:
        seen(up, "ollama/idle", "ollama/other")
        row = models(up)["ollama/idle"]
        assert (row["declared_bytes"], row["device_id"]) == (40 * MIB, "sim:0")
        (device,) = up.call("memory.get_status", {"device_id": "sim:0"})["devices"]
        assert device["external_bytes"] == 48 * MIB
        held = consumer(up, "server:ollama")
        assert (held["kind"], held["held_bytes"], held["device_id"]) == ("ollama", 48 * MIB, "sim:0")
        assert held["price_ms_per_mib"] is not None
        ollama.loaded.remove("idle")
        seen(up, "ollama/other")
        assert up.call("memory.get_status", {"device_id": "sim:0"})["devices"][0]["external_bytes"] == 8 * MIB


def test_a_plan_asks_servers(tmp_path: Path) -> None:
    """An allocation that does not fit has the cheapest server give up what it takes, and what is idle only."""
    ollama, swap = STAND_INS["ollama"](SIZES), STAND_INS["comfyui"]({})
    with beside(tmp_path, ("ollama", ollama), ("comfyui", swap)) as up:
        seen(up, "ollama/idle", "ollama/other")
        eventually(lambda: consumer(up, "server:comfyui")["held_bytes"] > 0, "ComfyUI to be seen")
        blocks = up.call("memory.allocate", {"size_bytes": 40 * MIB, "device_id": "sim:0"})
        plan = up.call(
            "memory.plan", {"candidates": [{"name": "big", "required_bytes": 60 * MIB, "device_id": "sim:0"}]}
        )
        (candidate,) = plan["candidates"]
        asked = {row["consumer_id"]: row for row in candidate["releases"]}
        assert asked["server:comfyui"]["cost_ms"] == 0
        assert "what torch keeps for reuse" in asked["server:comfyui"]["reason"]
        # The simulated device does not show what a stand-in holds: nothing comes back, and that is said.
        error = up.refused(
            "memory.allocate", {"size_bytes": 60 * MIB, "device_id": "sim:0", "make_room": True}
        )
        assert error["code"] == "out_of_memory"
        assert swap.told == ["unload all"]
        assert blocks["size_bytes"] == 40 * MIB
        row = consumer(up, "server:comfyui")
        assert (row["claimed_bytes"] > 0, row["returned_bytes"]) == (True, 0)


def test_one_model_is_unloaded_by_name(tmp_path: Path) -> None:
    """A request that names it has its server unload it; one that is in use, or of a server that only answers, stays."""
    ollama, openai = STAND_INS["ollama"](SIZES), STAND_INS["openai"]({"served": 1})
    with beside(tmp_path, ("ollama", ollama), ("openai", openai)) as up:
        seen(up, "ollama/idle", "ollama/other", "openai/served")
        done = up.call("memory.unload_model", {"model_id": "ollama/idle"})
        assert (done["model_id"], done["freed_bytes"]) == ("ollama/idle", 40 * MIB)
        assert ollama.told == ["unload idle"]
        assert done["reason"] == "unloaded: server ollama was told to"
        error = up.refused("memory.unload_model", {"model_id": "openai/served"})
        assert error["code"] == "model_busy"
        ollama.keeps = True
        error = up.refused("memory.unload_model", {"model_id": "ollama/other"})
        assert "has not unloaded it" in error["message"]


@pytest.mark.parametrize("mode", ["hung", "slow", "text", "huge", "broken"])
def test_a_server_that_misbehaves_holds_no_one_up(tmp_path: Path, mode: str) -> None:
    """What it had is not counted any more, its state is told, and it is followed again when it is well."""
    ollama = STAND_INS["ollama"](SIZES)
    with beside(tmp_path, ("ollama", ollama)) as up:
        seen(up, "ollama/idle", "ollama/other")
        up.call("worker.subscribe", {"events": ["memory.model_unloaded"]})
        ollama.mode = mode
        seen(up)
        lost = models(up)["ollama/idle"]
        assert lost["state"] == "unloaded"
        assert lost["state_reason"].startswith("its server can't be asked: ")
        eventually(lambda: len(up.events("memory.model_unloaded")) == len(SIZES), "both to be told of")
        events = [each["data"] for each in up.events("memory.model_unloaded")]
        assert {(each["freed_bytes"], each["reason"]) for each in events} == {
            (0, f"not counted any more: {lost['state_reason']}")
        }
        eventually(lambda: '"server":"ollama"' in up.stderr(), "the log says which")
        ollama.mode = "well"
        seen(up, "ollama/idle", "ollama/other")
        assert models(up)["ollama/idle"]["state_reason"] is None


def test_a_server_that_restarts(tmp_path: Path) -> None:
    """It is gone, with what it had; at the same address it is followed again."""
    path = tmp_path / "models.yaml"
    with ExitStack() as stack:
        with serving(STAND_INS["ollama"](SIZES)) as url:
            path.write_text(f"servers: [{{kind: ollama, url: '{url}', device: 'sim:0'}}]\n")
            up = stack.enter_context(worker("--models", str(path), "--simulated-device", "64MiB"))
            seen(up, "ollama/idle", "ollama/other")
        seen(up)
        with serving(STAND_INS["ollama"]({"new": MIB}), int(url.rpartition(":")[2])):
            seen(up, "ollama/new")


def test_doctor_asks_each_server_once(tmp_path: Path) -> None:
    """Whether it answers, and what it has loaded, or why it does not."""
    with serving(STAND_INS["ollama"](SIZES)) as url:
        path = tmp_path / "servers.yaml"
        rows = (f"up: {{kind: ollama, url: '{url}'}}", "down: {kind: ollama, url: 'http://127.0.0.1:9'}")
        path.write_text("servers:\n" + "".join(f"  {row}\n" for row in rows))
        command = [sys.executable, "-m", "memory_worker", "doctor", "--models", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
        told = json.loads(subprocess.check_output([*command, "--json"], cwd=ROOT, stderr=subprocess.DEVNULL))
    assert "server up  answers\n" in done.stdout
    assert "server down  nothing answers there\n" in done.stdout
    assert "model up/idle  " in done.stdout
    assert {each["name"]: each["state"] for each in told["servers"]} == {
        "server:up": "ok",
        "server:down": "degraded",
    }


def test_a_broker(tmp_path: Path) -> None:
    """It goes on after the end of its input, says in plain lines what it sees, can be asked, and ends at SIGTERM."""
    ollama = STAND_INS["ollama"](SIZES)
    with serving(ollama) as url:
        path = tmp_path / "models.yaml"
        path.write_text(f"servers: {{gpu: {{kind: ollama, url: '{url}', device: 'sim:0'}}}}\n")
        command = (sys.executable, "-m", "memory_worker", "broker")
        options = ("--models", str(path), "--simulated-device", "64MiB")
        with worker(*options, command=command) as up:
            seen(up, "gpu/idle", "gpu/other")
            assert up.process.stdin is not None
            up.call("memory.unload_model", {"model_id": "gpu/other"})
            up.process.stdin.close()
            ollama.loaded.remove("idle")
            eventually(lambda: "gpu/idle" in up.stderr(), "a line about what went")
            assert up.process.poll() is None
            up.terminate()
            assert up.exit_code() == 0
            assert "Traceback" not in up.stderr()


@pytest.mark.parametrize(("options", "serving_told"), [((), True), (("--log-level", "warning"), False)])
def test_a_broker_says_what_it_does_unless_it_is_told_otherwise(
    tmp_path: Path, options: tuple[str, ...], *, serving_told: bool
) -> None:  # fmt: skip
    """Without a level it tells all that it does; a level that is given counts, the default of others' as well."""
    (tmp_path / "models.yaml").write_text("servers: [{kind: ollama, url: 'http://127.0.0.1:1'}]\n")
    command = (sys.executable, "-m", "memory_worker", "broker")
    with worker("--models", str(tmp_path / "models.yaml"), *options, command=command) as up:
        eventually(lambda: "nothing answers there" in up.stderr(), "a warning")
        up.terminate()
        assert up.exit_code() == 0
        assert ("serving, version" in up.stderr()) is serving_told


@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
@pytest.mark.parametrize("options_first", [False, True])
def test_a_broker_has_no_host(tmp_path: Path, *, options_first: bool) -> None:
    """Ctrl-C ends it in order, wherever its input comes from; nobody else is there for whom it could be meant."""
    (tmp_path / "models.yaml").write_text("servers: [{kind: ollama, url: 'http://127.0.0.1:1'}]\n")
    words = ["--models", str(tmp_path / "models.yaml")]
    words = [*words, "broker"] if options_first else ["broker", *words]
    # Whoever runs this may ignore it, as a shell has its jobs in the background do.
    script = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    with worker(command=(sys.executable, "-c", script, sys.executable, "-m", "memory_worker", *words)) as up:
        up.call("worker.ping")
        up.process.send_signal(signal.SIGINT)
        assert up.exit_code() == 0
        assert "ending, reason SIGINT" in up.stderr()


def test_a_broker_without_servers() -> None:
    """It says what it needs."""
    ended = subprocess.run(
        [sys.executable, "-m", "memory_worker", "broker"], cwd=ROOT / "worker/entry", stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "--models FILE names the servers" in ended.stderr


WITHOUT_LIBRARY = "import sys; sys.modules['urllib3'] = None; import memory_worker; memory_worker.main()"


@pytest.mark.parametrize(
    ("declared", "script", "told", "remedy"),
    [
        ("models: []", None, "", "servers: {ollama: {kind: ollama}}"),
        ("servers: {odd: {kind: olama}}", None, "servers.odd.kind: input should be", "is in the log"),
        ("servers: {far: {kind: vllm, device: 'cuda:7'}}", None, "no device 'cuda:7'", "is in the log"),
        ("servers: {gpu: {kind: ollama}}", WITHOUT_LIBRARY, "", "pip install memory-worker[servers]"),
    ],
)
def test_a_broker_that_follows_no_server_does_not_start(
    tmp_path: Path, declared: str, script: str | None, told: str, remedy: str
) -> None:
    """It would stand idle for good, and look as if it worked: it says why, and what to do."""
    path = tmp_path / "servers.yaml"
    path.write_text(f"{declared}\n")
    run = ("-m", "memory_worker") if script is None else ("-c", script)
    ended = subprocess.run(
        [sys.executable, *run, "broker", "--models", str(path)], cwd=ROOT / "worker/entry",
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    assert ended.returncode == 2
    assert told in ended.stderr
    (said,) = (
        line for line in ended.stderr.splitlines() if "error: broker: no model server is followed" in line
    )
    assert remedy in said


def test_wrong_servers_are_left_out(tmp_path: Path) -> None:
    """Each mistake is told of with its line, and what is right is followed all the same."""
    ollama = STAND_INS["ollama"](SIZES)
    with serving(ollama) as url:
        path = tmp_path / "models.yaml"
        path.write_text(
            "servers:\n"
            f"  good: {{kind: ollama, url: '{url}', device: 'sim:0'}}\n"
            "  far: {kind: ollama, url: 'http://10.0.0.1:11434'}\n"
            "  odd: {kind: olama}\n"
            "  a/b: {kind: ollama, url: 'http://127.0.0.1:9', device: 'sim:0'}\n"
            "  off: {kind: ollama, url: 'http://127.0.0.1:9', device: 'sim:0'}\n"  # a name like any other
            "  bare: {kind: ollama, url: '127.0.0.1:9'}\n"
            "  nowhere: {kind: vllm, device: 'cuda:7'}\n"
            "  locked: {kind: openai, authorization_env: NOT_SET_ANYWHERE}\n"
        )
        with worker("--models", str(path), "--simulated-device", "64MiB") as up:
            seen(up, "good/idle", "good/other")
            for text in (
                "10.0.0.1 is not this machine",
                "olama",
                "servers.a/b.name: must be such as ollama-2, not 'a/b'",
                "servers.bare.url: must be such as http://127.0.0.1:11434, not '127.0.0.1:9'",
                '"server":"off","problem":"nothing answers there"',
                "cuda:7",
                "NOT_SET_ANYWHERE is not set",
            ):
                eventually(lambda text=text: text in up.stderr(), text)
