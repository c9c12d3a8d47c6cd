"""Kill -9 at random moments under load: every call ends, nothing is left, the next call works."""

import os
import random
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.csharp.host import Make, Watched, ask, call, fake, gone, real, wait

__all__ = ["fake", "real"]

CALLS = 24
ENDS = {"ok", "WorkerExitedException"}


def rounds(service: Any, kills: int, longest_ms: float, seed: int) -> Counter[str]:
    """Kill the worker that many times while calls are in flight; return how the calls ended."""
    chance = random.Random(seed)
    ends: Counter[str] = Counter()
    for number in range(kills):
        wait(service.StartAsync())
        tasks = [start(service, number * CALLS + one) for one in range(CALLS)]
        killer = threading.Timer(chance.uniform(0, longest_ms) / 1000, kill, [service.Snapshot.ProcessId])
        killer.start()
        tasks += [start(service, number * CALLS + one) for one in range(CALLS)]
        ends.update(end(task) for task in tasks)
        killer.join()
        assert ask(service, "memory.get_usage")["devices"] is not None
    return ends


def start(service: Any, number: int) -> Any:
    """Start a read or a change."""
    if number % 2:
        return call(service, "memory.get_usage")
    return call(service, "memory.allocate", size_bytes=4096, owner="chaos")


def kill(pid: int | None) -> None:
    """End a process the hard way; None and one that has ended are fine."""
    if pid is not None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def end(task: Any) -> str:
    """Wait for a call and say how it ended."""
    from MemoryWorker.Client import WorkerException

    try:
        wait(task)
    except WorkerException as problem:
        return type(problem).__name__
    return "ok"


@pytest.mark.parametrize("seed", [1, 2])
def test_the_fake_worker_killed_a_hundred_times(fake: Make, seed: int) -> None:
    """Fast rounds, in which the kill lands anywhere from the first request to the last reply."""
    survive(fake(max_restarts=10_000, max_delay_ms=1), kills=100, longest_ms=8, seed=seed)


def test_the_worker_killed_thirty_times(real: Make, tmp_path: Path) -> None:
    """The same with the worker itself; its memory goes with it."""
    service = real("--shared-folder", str(tmp_path), max_restarts=10_000, max_delay_ms=1)
    survive(service, kills=30, longest_ms=15, seed=3)


def survive(service: Any, kills: int, longest_ms: float, seed: int) -> None:
    started = Watched(service, "WorkerStarted")
    ends = rounds(service, kills, longest_ms, seed)
    assert set(ends) <= ENDS, ends
    assert sum(ends.values()) == kills * CALLS * 2
    assert ends["WorkerExitedException"] > 0
    assert service.Snapshot.Exits >= kills * 0.9
    assert service.Snapshot.InFlight == 0
    wait(service.DisposeAsync())
    assert all(gone(one.ProcessId) for one in started.seen)
