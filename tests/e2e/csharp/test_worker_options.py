"""The worker's options in .NET are those of its command line: each one, in a type, understood as it is meant."""

from typing import Any

import pytest

from tests.e2e.csharp.host import CLIENT, Make, milliseconds, real, strings, wait
from worker.app.options import parse

__all__ = ["real"]

NO_SERVERS = {"command", "json"}
"""Of ``doctor``, which no host starts."""


@pytest.fixture
def every(load: Any) -> Any:
    """Return WorkerOptions with each of them assigned."""
    load(CLIENT)
    from MemoryWorker.Client import WorkerLogLevel, WorkerOptions
    from MemoryWorker.Client.Protocol import DeviceKind, PressureCategory, SharedMemoryKind
    from System import Array
    from System.IO import UnixFileMode

    made = WorkerOptions()
    values = {
        "LimitBytes": 2**33,
        "DefaultDevice": "sim:0",
        "SimulatedDevices": strings(["64MiB", "8GiB,latency_ms=2"]),
        "Isolate": Array[DeviceKind]([DeviceKind.Simulated, DeviceKind.Cuda]),
        "DirectMlPython": "/a folder/python",
        "DirectMlAllocator": "tiled",
        "MaxFrameBytes": 4096,
        "MaxInflight": 7,
        "PoolBytes": 0,
        "SharedFolder": "-shared",
        "StoreFolder": "-stores",
        "DocumentsRoot": "/texts",
        "DocumentsEmbedder": "text.embed",
        "SharedMemory": SharedMemoryKind.Section,
        "Models": "models.yaml",
        "ModelRoot": "/models",
        "Record": "record.jsonl",
        "MetricsFile": "metrics.prom",
        "MetricsMode": UnixFileMode(0o640),
        "MetricsInterval": milliseconds(2500),
        "MonitorSocket": "",
        "Plugins": strings(["mine", "yours"]),
        "AutoOptimize": PressureCategory.High,
        "TracePython": 5,
        "Deterministic": True,
        "LogLevel": WorkerLogLevel.Information,
    }
    for name, value in values.items():
        setattr(made, name, value)
    return made


def test_every_option_reaches_the_worker(every: Any) -> None:
    """The worker's own parser reads each back as it was meant; one that it has and .NET lacks fails here."""
    read = vars(parse(list(every.ToArguments())))
    assert read == {
        "command": "serve",
        "json": False,
        "limit_bytes": 2**33,
        "default_device": "sim:0",
        "simulated_device": [{"total_bytes": 64 * 2**20}, {"total_bytes": 2**33, "latency_ms": 2.0}],
        "isolate": ["simulated", "cuda"],
        "directml_python": "/a folder/python",
        "directml_allocator": "tiled",
        "max_frame_bytes": 4096,
        "max_inflight": 7,
        "pool_bytes": 0,
        "shared_folder": "-shared",
        "store_folder": "-stores",
        "documents_root": "/texts",
        "documents_embedder": "text.embed",
        "shared_memory": "section",
        "models": "models.yaml",
        "model_root": "/models",
        "record": "record.jsonl",
        "metrics_file": "metrics.prom",
        "metrics_mode": 0o640,
        "metrics_seconds": 2.5,
        "monitor_socket": "",
        "plugin": ["mine", "yours"],
        "auto_optimize": "high",
        "trace_python": 5,
        "deterministic": True,
        "log_level": "info",
    }
    unset = vars(parse([]))
    assert {name for name, value in read.items() if value == unset[name]} == NO_SERVERS


def test_a_percentage_goes_before_a_level(every: Any) -> None:
    """The worker takes one of both."""
    every.AutoOptimizePercentage = 82.5
    assert parse(list(every.ToArguments())).auto_optimize == 82.5


def test_what_is_not_assigned_is_left_out(load: Any) -> None:
    """The worker's defaults are the worker's."""
    load(CLIENT)
    from MemoryWorker.Client import WorkerOptions

    assert list(WorkerOptions().ToArguments()) == []


def test_they_follow_the_arguments(real: Make) -> None:
    """Whatever starts the worker stays; a plugin that is named has its action."""
    from MemoryWorker.Client import WorkerOptions

    options = WorkerOptions()
    options.Plugins = strings(["tests.rigs.clock_plugin"])
    options.SimulatedDevices = strings(["64MiB"])
    service = real(Worker=options)
    from MemoryWorker.Client import ServiceMemory

    memory = ServiceMemory(service)
    assert "sim:0" in [one.DeviceId for one in wait(memory.GetMemoryStatusAsync()).Devices]
    assert "clock.set" in list(wait(memory.GetWorkerAsync()).Actions)


def test_a_level_that_the_worker_has_not(load: Any) -> None:
    """It fails where the service is made, not as a worker that does not start."""
    load(CLIENT)
    import System
    from MemoryWorker.Client import PythonWorkerOptions, PythonWorkerService, WorkerLogLevel, WorkerOptions

    options = PythonWorkerOptions()
    options.Worker = WorkerOptions()
    options.Worker.LogLevel = WorkerLogLevel.Critical
    with pytest.raises(System.ArgumentException, match="does not log at Critical alone"):
        PythonWorkerService(options)
