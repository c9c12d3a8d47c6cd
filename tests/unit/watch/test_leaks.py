"""What is suspected of leaking: floors that rise, and nothing else."""

import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.vocabulary import AnalyticsSection, LeakKind
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.policy.growth import MIN_CONFIDENCE, MIN_WINDOWS, Growth, growth
from worker.telemetry.python_memory import PythonMemory
from worker.watch.leaks import PYTHON_NS, SAMPLE_NS
from worker.watch.low_water import CAPACITY, WINDOW_NS, Floors

S = 10**9
GIB = 2**30


def watched(size: Callable[[float], float], seconds: int) -> Growth | None:
    """Follow a size every two seconds."""
    floors = Floors()
    for at in range(0, seconds, 2):
        floors.add(at * S, round(size(at)))
    return growth(floors.closed())


def saw(at: float) -> float:
    """Return what comes and goes every 14 seconds."""
    return 50 * MIB * (at % 14)


@pytest.mark.parametrize("seconds", [300, 600, 7200])
def test_a_rising_floor(seconds: int) -> None:
    """A leak below what comes and goes is found, with its speed."""
    risen = watched(lambda at: GIB + MIB * at + saw(at), seconds)
    assert risen is not None
    assert risen.confidence >= MIN_CONFIDENCE
    assert risen.bytes_per_second == pytest.approx(MIB, rel=0.35)


NOT_LEAKS: dict[str, Callable[[float], float]] = {
    "steady": lambda _: GIB,
    "comes and goes": lambda at: GIB + saw(at),
    "shrinks": lambda at: 2 * GIB - MIB * at / 4,
    "warms up and stays": lambda at: GIB + 4 * MIB * min(at, 150),
    "one step": lambda at: GIB + (GIB if at > 200 else 0),
    "too little to matter": lambda at: 10 * GIB + 1000 * at,
    "grows and is emptied": lambda at: GIB + 2 * MIB * (at % 180),
}


@pytest.mark.parametrize("name", NOT_LEAKS)
@pytest.mark.parametrize("seconds", [400, 600, 3600])
def test_what_is_no_leak(name: str, seconds: int) -> None:
    """What does not go on rising is not suspected."""
    assert watched(NOT_LEAKS[name], seconds) is None


def test_noise_is_hardly_ever_suspected() -> None:
    """Of two hundred sizes that only vary, at most one is suspected."""
    suspected = 0
    for seed in range(200):
        r = random.Random(seed)
        suspected += watched(lambda _: GIB + r.gauss(0, 100 * MIB), 600) is not None  # noqa: B023 - used at once
    assert suspected <= 1


def test_floors_are_bounded() -> None:
    """However long it is watched, few windows are kept, from the first moment on, each with its least."""
    floors = Floors()
    for at in range(100_000):
        floors.add(at * S, 1000 if at % 10 else 3)
    kept = floors.closed()
    assert MIN_WINDOWS <= len(kept) < CAPACITY
    assert kept[0].from_ns == 0
    assert {each.bytes for each in kept} == {3}
    assert kept[1].from_ns - kept[0].from_ns >= 100_000 * S // CAPACITY > WINDOW_NS


# ---- in the worker ----


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Return a machine with one simulated device."""
    made = Machine(tmp_path, SimulatedDevice(total_bytes=2 * GIB))
    yield made
    made.close()


def suspects(machine: Machine) -> list[tuple[LeakKind, str | None, str | None]]:
    """Return what is suspected."""
    found = machine.memory.analytics(("cpu", "sim:0"), 1, frozenset({AnalyticsSection.LEAKS})).suspected_leaks
    assert found is not None
    assert all(0 < leak.confidence <= 1 and leak.evidence for leak in found)
    return [(leak.kind, leak.owner, leak.purpose) for leak in found]


def test_who_frees_less_than_he_takes(machine: Machine) -> None:
    """An owner who frees most is suspected by what stays, with count, bytes and speed; who frees all is not."""
    ids = []
    for step in range(80):
        machine.allocate("sim:0", MIB // 2, owner="leaky", purpose="kv")
        ids += [machine.allocate("sim:0", MIB, owner=owner, purpose="kv") for owner in ("leaky", "tidy")]
        if step % 5 == 4:
            for name in ids:
                machine.memory.deallocate(name, force=False)
            ids.clear()
        machine.memory.leaks.sample(("cpu", "sim:0"))
        machine.pass_time(SAMPLE_NS)
    assert suspects(machine) == [(LeakKind.ALLOCATIONS, "leaky", "kv")]
    (leak,) = machine.memory.leaks.suspects(("sim:0",))
    assert (leak.allocation_count, leak.allocated_bytes) == (80, 40 * MIB)
    assert leak.bytes_per_second == pytest.approx(MIB / 4, rel=0.2)
    assert machine.memory.leaks.suspects(("cpu",)) == ()


def test_sampled_at_most_every_two_seconds(machine: Machine) -> None:
    """However often it is looked, sampling is cheap."""
    assert machine.memory.leaks.sample(("cpu",))
    assert not machine.memory.leaks.sample(("cpu",))
    machine.pass_time(SAMPLE_NS)
    assert machine.memory.leaks.sample(("cpu",))


def test_lines_of_python(machine: Machine) -> None:
    """Objects that one line keeps making are suspected by that line; others are not."""
    sizes = {"leak.py:7": 0, "fine.py:9": 50 * MIB}
    machine.memory.leaks.python_lines = lambda: dict(sizes)
    for _ in range(40):
        sizes["leak.py:7"] += MIB
        machine.memory.leaks.sample(("cpu",))
        machine.pass_time(PYTHON_NS)
    assert suspects(machine) == [(LeakKind.PYTHON, "leak.py:7", None)]


def test_python_tells_its_lines() -> None:
    """Tracing names the line that holds most."""
    try:
        memory = PythonMemory(1)
        kept = [bytearray(1000) for _ in range(5000)]
        lines = memory.lines()
    finally:
        tracemalloc.stop()
    largest = max(lines, key=lines.__getitem__)
    assert largest.startswith(__file__)
    assert lines[largest] >= sum(map(len, kept))
