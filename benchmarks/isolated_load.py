"""Loading 768 MiB of weights onto a device in a process of its own, against the same device in this one."""

import os
from collections.abc import Callable
from functools import partial

from benchmarks.harness import heading, interleaved, row, seconds
from benchmarks.isolation import cpu_ns, fresh_token, isolated_device, on_one_cpu
from benchmarks.model_load import cold, model_of
from worker.backends.base import DeviceBackend
from worker.backends.isolated import IsolatedBackend
from worker.backends.simulated import simulated_in_process
from worker.core.models import ModelSpec
from worker.core.records import AllocationRequest
from worker.loaders.placing import place_through
from worker.loaders.safetensors_loader import SafetensorsLoader

SIZE = 768 * 2**20
ROUNDS = 9


def main() -> None:
    """Print the ratios."""
    with model_of(SIZE) as (path, spec):
        here, apart = simulated_in_process(0, total_bytes=4 * SIZE), isolated_device()
        apart.probe()
        for each in (here, apart):
            _load(spec, each)
        heading(
            "Load of 768 MiB onto a device in a process of its own, seconds",
            "the same device in this process",
        )
        load = partial(_load, spec)
        if hasattr(os, "sched_setaffinity"):
            with on_one_cpu():
                _compare("on one CPU", load, apart, here)
                _compare("on one CPU, by processor time", partial(_processor, spec), apart, here)
        _compare("on all CPUs", load, apart, here)
        _compare("on all CPUs, by processor time", partial(_processor, spec), apart, here)
        if hasattr(os, "posix_fadvise"):
            _compare("not in the page cache", lambda each: cold(path, partial(load, each)), apart, here)
        apart.close()
        here.close()


def _compare(
    name: str, work: Callable[[DeviceBackend], float], apart: DeviceBackend, here: DeviceBackend
) -> None:
    ours, floor = interleaved(ROUNDS, partial(work, apart), partial(work, here))
    row(name, ours, floor, "s", "<= 1.1")


def _load(spec: ModelSpec, backend: DeviceBackend) -> float:
    def work() -> None:
        file = SafetensorsLoader().open(spec)
        request, token = AllocationRequest("sim:0", file.total_bytes), fresh_token()
        backend.load("model", request, lambda _, write: place_through(file, write, token), token)
        file.close()

    taken = seconds(work)
    backend.unload("model")
    return taken


def _processor(spec: ModelSpec, backend: DeviceBackend) -> float:
    """Return how long the processes that have a part in it had a CPU, which is the same on a busy machine."""
    pids = (os.getpid(), backend.pid if isinstance(backend, IsolatedBackend) else None)
    before = sum(map(cpu_ns, pids))
    _load(spec, backend)
    return (sum(map(cpu_ns, pids)) - before) / 1e9


if __name__ == "__main__":
    main()
