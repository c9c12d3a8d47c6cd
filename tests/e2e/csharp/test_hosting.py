"""What a host sees of its worker: health, metrics, traces, logs, and options that are checked."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.csharp.host import FAKE, REPOSITORY
from tests.rigs.dotnet.build import build
from tests.rigs.dotnet.fixtures import default_out
from tests.rigs.dotnet.toolchain import Toolchain

PROBE = "tests/e2e/csharp/HostingProbe/HostingProbe.csproj"


@pytest.fixture(scope="module")
def seen(toolchain: Toolchain) -> dict[str, Any]:
    """Run the probe once and return what it saw."""
    build([REPOSITORY / PROBE], default_out(), toolchain)
    command = [str(toolchain.launcher), str(default_out() / "HostingProbe.dll"), sys.executable, FAKE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_health(seen: dict[str, Any]) -> None:
    """Healthy while it answers, degraded while it restarts, unhealthy when it is over."""
    assert (seen["healthy"], seen["degraded"], seen["stopped"]) == ("Healthy", "Degraded", "Unhealthy")


def test_traces(seen: dict[str, Any]) -> None:
    """Each call is an activity; its id went to the worker."""
    traces = [one.split(" ") for one in seen["traces"]]
    assert {(action, outcome) for action, _, outcome in traces} >= {
        ("fake.echo", "ok"),
        ("fake.refuse", "out_of_memory"),
    }
    assert seen["traceparent"] in [identifier for action, identifier, _ in traces if action == "fake.echo"]
    assert seen["traceparent"].startswith("00-")


def test_metrics(seen: dict[str, Any]) -> None:
    """Durations by action and outcome; exits, what was lost, and junk."""
    assert seen["code"] == "out_of_memory"
    assert set(seen["metrics"]) >= {
        "memory_worker.request.duration fake.echo ok",
        "memory_worker.request.duration fake.refuse out_of_memory",
        "memory_worker.exits 1",
        "memory_worker.lost_allocations 1",
        "memory_worker.junk_lines 2",
        "memory_worker.requests.in_flight 0",
    }


def test_logs(seen: dict[str, Any]) -> None:
    """Event ids stay; the worker's own lines keep their level."""
    logs = "\n".join(seen["logs"])
    assert "Information 1 WorkerStarted: The memory worker runs as process" in logs
    assert "Error 5 WorkerSaid: worker" in logs
    assert "the device is hot" in logs
    assert "Warning 5 WorkerSaid" in logs
    assert "Error 3 WorkerExited: the worker" in logs
    assert "1 allocations were lost; restart: in 600 s" in logs
    assert "Error 6 WorkerHandlerFailed: A handler of the memory worker's WorkerExited threw" in logs
