"""The page of figures: what is read is whole, of the process that runs, and says when it was taken."""

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from queue import SimpleQueue

import pytest

from tests.e2e.process import eventually
from tests.unit.isolation import MIB, RIGS, isolated, kill, never, wait_for_another
from worker.backends.isolation import figures_page
from worker.backends.isolation.figures_page import DEVICES, PAGE_BYTES, FiguresReader, FiguresWriter
from worker.core.records import AllocationRequest, Readings

READINGS = Readings(None, None, None, None, None, 0, None, 0, 0, None)


class Writer(FiguresWriter):
    """Writes when it is told to."""

    def __init__(self, page: memoryview, life: int, *device_ids: str) -> None:
        self.readings, self.done = READINGS, 0
        super().__init__(page, life, lambda _: self.readings, lambda: self.done, lambda _: None)
        self._places = figures_page._places(device_ids)
        self._written = dict.fromkeys(device_ids, (0, 0, 0))

    def note(self, device_id: str, free_bytes: int) -> None:
        """Note figures that are told apart by this."""
        self.readings = replace(READINGS, free_bytes=free_bytes)
        self.take(device_id)


def reader_of(page: memoryview, life: int, *device_ids: str) -> FiguresReader:
    """Return the worker's end."""
    made = FiguresReader(page, life)
    made.begin(device_ids)
    return made


def free(reader: FiguresReader, device_id: str = "d") -> int | None:
    """Return what the last figures are told apart by."""
    found = reader.read(device_id)
    return None if found is None else found.readings.free_bytes


def test_the_last_figures_are_read() -> None:
    """Each device has its own; they say when they were taken, and after how many changes."""
    page = memoryview(bytearray(PAGE_BYTES))
    names = [f"d{n}" for n in range(DEVICES + 1)]
    writer, reader = Writer(page, 1, *names[:DEVICES]), reader_of(page, 1, *names)
    assert free(reader, "d0") is None
    began = time.monotonic_ns()
    for n, name in enumerate(names[:DEVICES]):
        writer.done = n
        writer.note(name, n)
    for n, name in enumerate(names[:DEVICES]):
        found = reader.read(name)
        assert found is not None
        assert (found.readings.free_bytes, found.changes) == (n, n)
        assert began <= found.taken_ns <= time.monotonic_ns()
    assert free(reader, names[DEVICES]) is None, "there is no place for it: it is asked"
    assert free(reader, "unknown") is None


def test_a_write_that_is_cut_short() -> None:
    """Wherever a process dies in the middle of a write, the figures before it hold."""
    ours = bytearray(PAGE_BYTES)
    page = memoryview(ours)
    writer = Writer(page, 1, "d")
    writer.note("d", 1)
    writer.note("d", 2)
    before = bytes(ours)
    writer.note("d", 3)
    after = bytes(ours)
    changed = [at for at in range(PAGE_BYTES) if before[at] != after[at]]
    for cut in changed[1:]:
        ours[:] = after[:cut] + before[cut:]
        assert free(reader_of(page, 1, "d")) == 2, cut
    ours[:] = after
    assert free(reader_of(page, 1, "d")) == 3


def test_figures_that_are_written_while_they_are_read() -> None:
    """What is read is one writing's, and never older than what was read before."""
    page = memoryview(bytearray(PAGE_BYTES))
    writer, reader = Writer(page, 1, "d"), reader_of(page, 1, "d")
    written = 5000

    def write() -> None:
        for n in range(1, written + 1):
            writer.readings = replace(READINGS, free_bytes=n, total_bytes=n, cached_bytes=n)
            writer.take("d")

    thread = threading.Thread(target=write)
    thread.start()
    last = 0
    while last < written:
        found = reader.read("d")
        if found is not None:
            values = {found.readings.free_bytes, found.readings.total_bytes, found.readings.cached_bytes}
            assert len(values) == 1
            assert (found.readings.free_bytes or 0) >= last
            last = found.readings.free_bytes or 0
    thread.join()


def test_figures_of_another_life() -> None:
    """A process that was given up and writes yet is not listened to."""
    page = memoryview(bytearray(PAGE_BYTES))
    old, new, reader = Writer(page, 1, "d"), Writer(page, 2, "d"), reader_of(page, 2, "d")
    for n in range(5):
        old.note("d", n)
    assert free(reader) is None
    new.note("d", 10)
    new.note("d", 11)
    assert free(reader) in {10, 11}
    old.note("d", 6)
    assert free(reader) in {None, 10, 11}


def test_a_slow_question_does_not_overtake() -> None:
    """Figures that were taken before a change do not replace those that were taken after it."""
    page = memoryview(bytearray(PAGE_BYTES))
    writer, reader = Writer(page, 1, "d"), reader_of(page, 1, "d")
    writer.done = 2
    writer.note("d", 2)
    writer.done = 1
    writer.note("d", 1)
    assert free(reader) == 2


def test_only_what_is_read_is_followed() -> None:
    """After a change a device is asked at once where its figures were read since they were taken, and else is not."""
    page = memoryview(bytearray(PAGE_BYTES))
    writer, reader = Writer(page, 1, "d"), reader_of(page, 1, "d")
    writer.note("d", 1)
    writer.readings = replace(READINGS, free_bytes=2)
    writer.follow()
    assert free(reader) == 1
    writer.follow()
    assert free(reader) == 2


def test_a_change_is_seen_or_asked_for() -> None:
    """Figures older than an answered change are never taken for present ones; those after it come by themselves."""
    with isolated() as backend:
        backend.probe()
        for n in range(20):
            backend.allocate(f"a{n}", AllocationRequest("sim:0", MIB), never())
            found = backend.recent_readings("sim:0", None)
            assert found is None or found[0].resident_bytes == (n + 1) * MIB
            assert backend.readings("sim:0").resident_bytes == (n + 1) * MIB
        while (found := backend.recent_readings("sim:0", None)) is None:
            threading.Event().wait(0.01)
        assert found[0] == backend.readings("sim:0")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")
def test_a_hung_process() -> None:
    """Its last figures are there with their age, which grows; a question never waits."""
    with isolated() as backend:
        backend.probe()
        backend.allocate("a", AllocationRequest("sim:0", MIB), never())
        while backend.recent_readings("sim:0", None) is None:
            threading.Event().wait(0.01)
        os.kill(backend.pid or 0, signal.SIGSTOP)
        while (found := backend.recent_readings("sim:0", 250)) is not None:
            threading.Event().wait(0.05)
        found = backend.recent_readings("sim:0", None)
        assert found is not None
        assert found[0].resident_bytes == MIB
        assert found[1] > 250e6
        os.kill(backend.pid or 0, signal.SIGCONT)
        while backend.recent_readings("sim:0", 250) is None:
            threading.Event().wait(0.01)


def test_a_process_that_ended() -> None:
    """Nothing is read of it, and the next has its own."""
    with isolated() as backend:
        backend.probe()
        backend.allocate("a", AllocationRequest("sim:0", MIB), never())
        backend.readings("sim:0")
        wait_for_another(backend, kill(backend))
        found = backend.recent_readings("sim:0", None)
        assert found is None or found[0].resident_bytes == 0


def test_figures_that_change_from_outside_are_told_of(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """They are on the page by then, and nobody asked; what a library writes to stderr meanwhile is passed on, and no more."""
    monkeypatch.setenv("PYTHONPATH", RIGS)
    told: SimpleQueue[str] = SimpleQueue()
    with isolated("misbehaving_backends:GrantsLess") as backend:
        backend.watch_figures(told.put)
        backend.probe()
        for granted in (128 * MIB, 64 * MIB):
            backend.trim("sim:0")
            assert told.get(timeout=60) == "sim:0"
            # What is told of while the call goes on that led to it is on the page again after the call.
            noted = eventually(lambda: backend.recent_readings("sim:0", None), "figures of after the call")
            assert noted is not None
            assert noted[0].budget_bytes == granted
    assert told.empty()
    assert capfd.readouterr().err == "half a line, half a line, "
