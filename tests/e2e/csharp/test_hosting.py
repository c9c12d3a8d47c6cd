"""What a host sees of its worker: health, metrics, traces, logs, and options that are checked."""

import sys
from typing import Any

import pytest

from tests.e2e.csharp.host import FAKE, run_probe
from tests.rigs.dotnet.toolchain import Toolchain

PYTHON = (
    "Interpreter",
    "Venv",
    "Folder",
    "BasePython",
    "Wheel",
    "WheelFolder",
    "Extras",
    "MayMake",
    "StepTimeout",
)


@pytest.fixture(scope="module")
def seen(toolchain: Toolchain) -> dict[str, Any]:
    """Run the probe once and return what it saw."""
    return run_probe(toolchain, "HostingProbe", sys.executable, FAKE)


def test_health(seen: dict[str, Any]) -> None:
    """Healthy while it answers, degraded while it restarts, unhealthy when it is over."""
    assert (seen["healthy"], seen["degraded"], seen["stopped"]) == ("Healthy", "Degraded", "Unhealthy")


def test_traces(seen: dict[str, Any]) -> None:
    """Each call is an activity; its id went to the worker."""
    traces = [one.split(" ") for one in seen["traces"]]
    assert {(action, error) for action, _, error in traces} >= {
        ("fake.echo", ""),
        ("fake.refuse", "out_of_memory"),
    }
    assert seen["traceparent"] in [identifier for action, identifier, _ in traces if action == "fake.echo"]
    assert seen["traceparent"].startswith("00-")


def test_metrics(seen: dict[str, Any]) -> None:
    """Durations by method and error, in OpenTelemetry's names; exits, what was lost, and junk; each worker's own."""
    assert seen["code"] == "out_of_memory"
    fake = "rpc.system=memory_worker rpc.service=fake rpc.method"
    second = "service.instance.id=second"
    ping = "rpc.system=memory_worker rpc.service=worker rpc.method=ping"
    assert {one.strip() for one in seen["metrics"]} >= {
        f"memory_worker.request.duration {fake}=echo",
        f"memory_worker.request.duration {fake}=refuse error.type=out_of_memory",
        f"memory_worker.request.duration {second} {ping}",
        "memory_worker.exits 1",
        "memory_worker.lost_allocations 1",
        "memory_worker.junk_lines 2",
        "memory_worker.requests.in_flight 0",
        f"memory_worker.junk_lines 0 {second}",
    }


def test_telemetry_has_the_librarys_version(seen: dict[str, Any]) -> None:
    """Of the meter and of the source of traces."""
    assert seen["version"] == ["0.1.0", "0.1.0"]


def test_the_workers_options_come_from_configuration(seen: dict[str, Any]) -> None:
    """Each by its name, in its type."""
    told = {"--auto-optimize=high", "--plugin=mine", "--metrics-seconds=5", "--limit-bytes=1048576"}
    assert set(seen["configured"]) == told


def test_the_workers_python_comes_from_configuration(seen: dict[str, Any]) -> None:
    """It is found or made when the worker starts; what lacks is the start's reason, with its remedy."""
    assert seen["extras"] == ["torch"]
    sentence = "FolderMissing: Venv '/no/such/venv' is not there (looked for '/no/such/venv'): make it, or set Venv to"
    assert seen["unprepared"].startswith(sentence)


def test_several_workers(seen: dict[str, Any]) -> None:
    """Each has its key: a process, a health check and telemetry of its own, ended with the host; none is added twice."""
    assert seen["keyed"] == {
        "unstarted": "NotStarted",
        "running": "Running",
        "apart": True,
        "health": "Healthy",
        "twice": "there is a memory worker 'second' already (Parameter 'key')",
    }
    assert seen["ended"] == "Disposed"


def test_logs(seen: dict[str, Any]) -> None:
    """Event ids stay; the worker's own lines keep their level."""
    logs = "\n".join(seen["logs"])
    assert "Information 1 WorkerStarted: The memory worker runs as process" in logs
    assert "Error 5 WorkerSaid: worker" in logs
    assert "the device is hot" in logs
    assert "Warning 5 WorkerSaid" in logs
    (about,) = [line for line in seen["logs"] if ": slow, " in line]
    assert about.endswith(
        ": slow, model_id m, request_id a-1 [MemoryWorkerRequestId a-1]"
        " [TraceId 4bf92f3577b34da6a3ce929d0e0e4736] [SpanId 00f067aa0ba902b7]"
    )
    assert "Error 3 WorkerExited: the worker" in logs
    assert "1 allocations were lost; restart: in 600 s" in logs
    assert "Error 6 WorkerHandlerFailed: A handler of the memory worker's WorkerExited threw" in logs


def test_a_section_with_a_mistake_fails_the_start(seen: dict[str, Any]) -> None:
    """A key that no option has is named with the one that was probably meant, and a value with its key; none is passed over."""
    said = seen["sections"]
    assert said["typo"].split("; MemoryWorker") == [
        "MemoryWorker:FilName is no option; did you mean FileName?",
        ":Python:Extra is no option; did you mean Extras?",
        f":Python:Nonsense is no option; there are {', '.join(PYTHON)}",
        ":Worker:Plugin is no option; did you mean Plugins?",
    ]
    assert "at 'MemoryWorker:MaxRestarts'" in said["value"]
    assert "at 'MemoryWorker:Worker:AutoOptimize'" in said["word"]
    assert said["known"] == "started, no environment"
    assert said["whole"] == 'the whole configuration was given; give its section: GetSection("MemoryWorker")'


def test_a_configuration_of_the_workers_alone(seen: dict[str, Any]) -> None:
    """What the process inherited is in it as well, and is no mistake; a key that somebody wrote is."""
    said = seen["sections"]
    assert said["whole of others"] == said["whole"]
    assert said["own"] == said["own of nothing"] == "started, no environment"
    assert said["own with a typo"] == "FilName is no option; did you mean FileName?"


def test_an_empty_section_asks_for_an_environment(seen: dict[str, Any]) -> None:
    """``"Python": {}`` is all that it takes."""
    assert seen["sections"]["empty"] == "started, an environment"
