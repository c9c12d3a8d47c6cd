"""What is suspected of leaking: floors that rise, and nothing else."""

import mmap
import random
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.vocabulary import AnalyticsSection, FreedBy, GroupBy, LeakKind
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.background.pressure_monitor import PressureMonitor
from worker.core.cancellation import CancelToken
from worker.core.consumers import Holding, Offer
from worker.core.events import LeakSuspected
from worker.policy.growth import MIN_CONFIDENCE, MIN_WINDOWS, Growth, growth
from worker.telemetry.python_memory import PythonMemory
from worker.telemetry.system import FixedSystemMemory, SystemMemory, SystemReading
from worker.watch.leaks import PYTHON_NS, SAMPLE_NS
from worker.watch.low_water import CAPACITY, WINDOW_NS, LowWaterMarks

S = 10**9
GIB = 2**30


def watched(size: Callable[[float], float], seconds: int) -> Growth | None:
    """Follow a size every two seconds."""
    floors = LowWaterMarks()
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
        suspected += watched(lambda _: GIB + r.gauss(0, 100 * MIB), 600) is not None  # noqa: B023 - the function is called before the loop goes on
    assert suspected <= 1


def test_floors_are_bounded() -> None:
    """However long it is watched, few windows are kept, from the first moment on, each with its least."""
    floors = LowWaterMarks()
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
    found = machine.memory.questions.analytics(
        ("cpu", "sim:0"), 1, frozenset({AnalyticsSection.LEAKS})
    ).suspected_leaks
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
                machine.memory.allocations.deallocate(name, force=False)
            ids.clear()
        machine.parts.leaks.sample(("cpu", "sim:0"))
        machine.pass_time(SAMPLE_NS)
    assert suspects(machine) == [(LeakKind.ALLOCATIONS, "leaky", "kv")]
    (leak,) = machine.parts.leaks.suspects(("sim:0",))
    assert (leak.allocation_count, leak.allocated_bytes) == (80, 40 * MIB)
    assert leak.bytes_per_second == pytest.approx(MIB / 4, rel=0.2)
    assert machine.parts.leaks.suspects(("cpu",)) == ()


def test_sampled_at_most_every_two_seconds(machine: Machine) -> None:
    """However often it is looked, sampling is cheap."""
    assert machine.parts.leaks.sample(("cpu",))
    assert not machine.parts.leaks.sample(("cpu",))
    machine.pass_time(SAMPLE_NS)
    assert machine.parts.leaks.sample(("cpu",))


def test_lines_of_python(tmp_path: Path) -> None:
    """Objects that one line keeps making are suspected by that line; others are not."""
    sizes = {"leak.py:7": 0, "fine.py:9": 50 * MIB}
    machine = Machine(tmp_path, SimulatedDevice(MIB), python_lines=lambda: dict(sizes))
    for _ in range(40):
        sizes["leak.py:7"] += MIB
        machine.parts.leaks.sample(("cpu",))
        machine.pass_time(PYTHON_NS)
    assert suspects(machine) == [(LeakKind.PYTHON, "leak.py:7", None)]


class GrowingSystem(FixedSystemMemory):
    """A machine on which this process takes what a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.taken_bytes = 100 * MIB

    def read(self) -> SystemReading:
        """Return what is usual, but for this process."""
        return replace(super().read(), process_rss_bytes=self.taken_bytes)


def test_a_leaking_operation_is_named(tmp_path: Path) -> None:
    """Of a process that grows the operation at whose ends it had grown is told; not one that gives all back, and no large first one."""
    system = GrowingSystem()
    machine = Machine(tmp_path, SimulatedDevice(MIB), system=system)
    machine.process_bytes = lambda: system.taken_bytes
    parts = machine.parts
    monitor = PressureMonitor(parts.core, machine.memory, parts.trends, parts.leaks, parts.pace)
    parts.pace.set(0)
    operations = machine.memory.operations
    with operations.operation("warm"):
        system.taken_bytes += 512 * MIB
    for _ in range(100):
        with operations.operation("tidy"):
            system.taken_bytes += 64 * MIB
            system.taken_bytes -= 64 * MIB
        begun = operations.begin("index")
        system.taken_bytes += 2 * MIB
        operations.end(begun, failed=False)
        monitor.run_due()
        machine.pass_time(SAMPLE_NS)
    assert suspects(machine) == [(LeakKind.PROCESS, "operation:index", None)]
    (leak,) = machine.parts.leaks.suspects(("cpu",))
    assert "operation:index had grown by" in leak.evidence


@pytest.mark.parametrize("share", [0, 0.4])
def test_an_operation_that_is_not_behind_it_is_not_named(tmp_path: Path, share: float) -> None:
    """What gains less than half of what the process grows by is not blamed for it."""
    system = GrowingSystem()
    machine = Machine(tmp_path, SimulatedDevice(MIB), system=system)
    machine.process_bytes = lambda: system.taken_bytes
    parts = machine.parts
    monitor = PressureMonitor(parts.core, machine.memory, parts.trends, parts.leaks, parts.pace)
    parts.pace.set(0)
    for _ in range(100):
        with machine.memory.operations.operation("index"):
            system.taken_bytes += int(share * 4 * MIB)
        system.taken_bytes += int((1 - share) * 4 * MIB)
        monitor.run_due()
        machine.pass_time(SAMPLE_NS)
    assert suspects(machine) == [(LeakKind.PROCESS, None, None)]


def test_a_process_that_grows_is_seen_and_suspected(tmp_path: Path) -> None:
    """Real memory that code in the process keeps taking: in the timeline at once, told of within four minutes.

    Only the clock is a test's: the figures are the system's, and come the way they come in a worker.
    """
    machine = Machine(tmp_path, SimulatedDevice(MIB), system=SystemMemory())
    parts = machine.parts
    monitor = PressureMonitor(parts.core, machine.memory, parts.trends, parts.leaks, parts.pace)
    parts.pace.set(0)
    leaked = []
    for _ in range(240):
        # Of the system: what other tests freed would be used again.
        leaked.append(mmap.mmap(-1, 2 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        leaked[-1].write(b"x" * (2 * MIB))
        machine.allocate(
            "cpu", 4096, lease_ns=3 * S
        )  # what is busy with other things is watched all the same
        machine.pass_time(S)
        monitor.run_due()
        if machine.told(LeakSuspected):
            break
    (event,) = machine.told(LeakSuspected)
    assert (event.leak.kind, event.leak.device_id) == (LeakKind.PROCESS, "cpu")
    # The process is that of all tests: what others left behind may go meanwhile.
    assert 0 < event.leak.bytes_per_second < 3 * MIB
    assert (LeakKind.PROCESS, None, None) in suspects(machine)
    analytics = machine.memory.questions.analytics(("cpu",), 300_000, frozenset({AnalyticsSection.TIMELINE}))
    assert analytics.timeline is not None
    known = [each.process_used_bytes for each in analytics.timeline if each.process_used_bytes is not None]
    assert len(known) > len(analytics.timeline) // 2
    assert known[-1] - known[0] > len(leaked) * MIB
    machine.close()


class Kept:
    """A consumer in this process that fills up."""

    consumer_id, kind, device_id = "tiles", "tile_cache", "cpu"

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def holding(self) -> Holding:
        return Holding(sum(map(len, self.kept)))

    def offers(self, _need_bytes: int) -> tuple[Offer, ...]:
        return ()

    def release(self, _offer: Offer, _token: CancelToken) -> int:
        return 0


def test_a_consumer_that_fills_up_is_no_leak(tmp_path: Path) -> None:
    """What consumers in the process say that they hold is explained: it is told by name, and nothing is suspected."""
    machine = Machine(tmp_path, SimulatedDevice(MIB), system=SystemMemory())
    tiles = Kept()
    machine.memory.consumers.add(tiles)
    for _ in range(120):
        tiles.kept.append(b"x" * (4 * MIB))
        machine.pass_time(SAMPLE_NS)
        machine.memory.sample(0)
        machine.parts.leaks.sample(("cpu",))
    assert suspects(machine) == []
    (row,) = machine.memory.questions.pressure(("cpu",)).devices
    held = {each.owner or each.purpose: each for each in row.held_by}
    told = held["tiles"]
    assert (told.purpose, told.bytes, told.suspected, told.freed_by) == (
        "tile_cache", 480 * MIB, False, FreedBy.WORKER,
    )  # fmt: skip
    (usage,) = machine.memory.questions.usage(("cpu",), GroupBy.OWNER)
    assert usage.unattributed_bytes is not None
    rest = held["unattributed"].bytes if "unattributed" in held else 0
    assert rest <= usage.unattributed_bytes - 400 * MIB
    machine.close()


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
