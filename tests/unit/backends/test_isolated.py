"""A backend in a process of its own: called, lost and brought back, with real processes that misbehave."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from protocol.vocabulary import DeviceState, Executed, MemoryType
from tests.e2e.process import eventually
from tests.unit.isolation import (
    MIB,
    NoDelay,
    ask,
    content_of,
    fill,
    isolated,
    kill,
    never,
    wait_for,
    wait_for_another,
)
from worker.backends.isolated import IsolatedBackend
from worker.backends.isolation import asking, reader
from worker.backends.isolation.slots import SLOTS
from worker.core.cancellation import CancelToken
from worker.core.errors import (
    CancelledError,
    DeadlineExceededError,
    DeviceUnavailableError,
    OutOfMemoryError,
    UnsupportedError,
)
from worker.core.records import AllocationRequest

pytestmark = pytest.mark.usefixtures("rigs")


def test_errors_come_back_as_they_were() -> None:
    """Classes, messages and details cross over."""
    with isolated() as backend:
        backend.probe()
        with pytest.raises(
            OutOfMemoryError, match="sim:0 refused 536870912 bytes; its largest free"
        ) as memory:
            backend.allocate("a", ask(512 * MIB), never())
        assert memory.value.details == {"device_id": "sim:0", "requested_bytes": 512 * MIB}
        assert memory.value.executed is Executed.NO
        with pytest.raises(UnsupportedError):
            backend.check(AllocationRequest("sim:0", 1, MemoryType.SHARED))


def test_a_copy_holds_up_nobody() -> None:
    """While a copy hangs, readings and allocations go on; cancelling ends it."""
    with isolated(standing=False, stall_copy=2) as backend:
        backend.probe()
        expected = fill(backend, "a", MIB, 1)
        stuck, token = [], never()

        def copy() -> None:
            with pytest.raises(CancelledError):
                backend.read("a", 0, memoryview(bytearray(MIB)), token)
            stuck.append("cancelled")

        thread = threading.Thread(target=copy)
        thread.start()
        for n in range(5):
            assert backend.readings("sim:0").resident_bytes == (n + 1) * MIB
            backend.allocate(f"b{n}", ask(MIB), never())
        token.cancel()
        thread.join(30)
        assert stuck == ["cancelled"]
        assert content_of(backend, "a", MIB) == expected


def test_answers_that_a_thread_of_its_own_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a pipe can't be waited for with a time limit, everything is as it is elsewhere."""
    monkeypatch.setattr(reader, "READS_ALONE", True)
    with isolated(clock=NoDelay()) as backend:
        backend.probe()
        expected = fill(backend, "a", 20 * MIB, 1)
        assert content_of(backend, "a", 20 * MIB) == expected
        assert backend.restart(never()).moved == 1
        assert content_of(backend, "a", MIB) == expected[:MIB]
        wait_for_another(backend, kill(backend))
        assert backend.live() == frozenset()


def test_many_wait_for_answers_at_once() -> None:
    """Who has its own answer hands the reading on: nobody waits for an answer that is there."""
    with isolated() as backend:
        backend.probe()
        expected = [fill(backend, f"a{n}", 3 * MIB, n) for n in range(4)]
        wrong: list[int] = []

        def use(me: int) -> None:
            for turn in range(30):
                backend.allocate(f"{me}-{turn}", ask(4096), never())
                if content_of(backend, f"a{me}", 3 * MIB) != expected[me]:
                    wrong.append(me)
                backend.free(f"{me}-{turn}")

        threads = [threading.Thread(target=use, args=(me,)) for me in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        assert wrong == []
        assert backend.live() == {f"a{n}" for n in range(4)}


def test_copies_through_a_file() -> None:
    """Where memory cannot be inherited it is a file, and the same bytes go through it."""
    with isolated(slots_as_file=True) as backend:
        backend.probe()
        assert fill(backend, "a", 20 * MIB + 1, 1) == content_of(backend, "a", 20 * MIB + 1)
        backend.restart(never())
        assert len(content_of(backend, "a", 20 * MIB + 1)) == 20 * MIB + 1


def test_killed_and_back() -> None:
    """A process that is killed takes what was on it along, and another comes by itself."""
    told = []
    with isolated() as backend:
        backend.begin(lambda devices: told.append(devices[0].state))
        backend.probe()
        fill(backend, "a", MIB, 1)
        pid = kill(backend)
        wait_for_another(backend, pid)
        assert not psutil.pid_exists(pid)
        assert backend.live() == frozenset()
        assert backend.free("a") == 0, "what went with the process needs no freeing"
        with pytest.raises(KeyError):
            backend.free("never")
        with backend._presence.telling:
            assert told == [DeviceState.AVAILABLE, DeviceState.LOST, DeviceState.AVAILABLE]


def test_a_copy_that_outlives_its_process() -> None:
    """The next piece of a copy finds its block gone, also when another process is there already."""
    with isolated(clock=NoDelay()) as backend:
        backend.probe()
        fill(backend, "a", 10, 1)
        wait_for_another(backend, kill(backend))
        with pytest.raises(DeviceUnavailableError, match="a was lost with its device's process"):
            content_of(backend, "a", 10)
        with pytest.raises(DeviceUnavailableError):
            backend.write("a", 0, memoryview(bytearray(10)), never())
        with pytest.raises(KeyError):
            content_of(backend, "never", 10)


def test_death_of_memory() -> None:
    """Last words that tell of exhausted memory make the allocation fail with that; nothing was allocated."""
    with isolated("misbehaving_backends:DiesOfMemory", clock=NoDelay()) as backend:
        backend.probe()
        backend.allocate("small", ask(1), never())
        with pytest.raises(OutOfMemoryError, match="its last words: DML allocator out of memory!") as caught:
            backend.allocate("large", ask(2 * MIB), never())
        assert caught.value.executed is Executed.NO
        assert caught.value.details == {"device_id": "sim:0", "requested_bytes": 2 * MIB}
        wait_for(backend, DeviceState.AVAILABLE)
        assert backend.live() == frozenset()


def test_removed_device() -> None:
    """A device that is gone while its process lives gets a new process."""
    with isolated("misbehaving_backends:IsRemoved", clock=NoDelay()) as backend:
        backend.probe()
        backend.allocate("a", ask(10), never())
        pid = backend.pid
        with pytest.raises(DeviceUnavailableError, match="-2005270523"):
            content_of(backend, "a", 10)
        wait_for(backend, DeviceState.AVAILABLE)
        assert backend.pid not in {pid, None}


def test_process_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who only looks waits for a moment; a process that does not answer for long is killed."""
    monkeypatch.setattr(asking, "PATIENCE_S", 0.5)
    with isolated("misbehaving_backends:HangsInReadings", goes_silent=True) as backend:
        backend.probe()
        backend.allocate("a", ask(10), never())
        pid = backend.pid
        with pytest.raises(DeviceUnavailableError, match="sim:0 has not answered for .* ms") as caught:
            backend.readings("sim:0")
        assert (caught.value.executed, caught.value.details["state"]) == (Executed.NO, DeviceState.AVAILABLE)
        wait_for_another(backend, pid or 0)
        with pytest.raises(DeviceUnavailableError, match="a was lost with its device's process"):
            content_of(backend, "a", 10)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")
def test_what_waits_for_a_hung_process_can_be_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline, or a cancel, ends every wait in a moment; what was done in the end is undone, and no slot is lost."""
    monkeypatch.setattr(asking, "PATIENCE_S", 600.0)  # it goes on, also where all of this takes long
    with isolated(standing=False, goes_silent=True) as backend:
        backend.probe()
        expected = fill(backend, "a", 5 * MIB, 1)
        os.kill(backend.pid or 0, signal.SIGSTOP)
        for call in (
            lambda token: backend.allocate("b", ask(MIB), token),
            lambda token: content_of(backend, "a", 5 * MIB, token),
            lambda token: backend.load("w", ask(MIB), lambda _, _write: None, token),
        ):
            with pytest.raises(DeadlineExceededError):
                call(CancelToken(time.monotonic_ns, time.monotonic_ns() + 10**7))
        token = never()
        cancel = threading.Timer(0.05, token.cancel)
        cancel.start()
        with pytest.raises(CancelledError):
            backend.allocate("c", ask(MIB), token)
        for _ in range(3):
            with pytest.raises(DeviceUnavailableError, match="has not answered"):
                backend.readings("sim:0")
        backend.tick()
        os.kill(backend.pid or 0, signal.SIGCONT)
        eventually(lambda: backend.live() == {"a"}, "what was done in the end is undone")
        assert content_of(backend, "a", 5 * MIB) == expected
        # Whichever thread of the process answers last.
        eventually(lambda: backend.live() and len(backend._slots._free) == SLOTS, "all slots are free")


@pytest.mark.parametrize(
    ("call", "executed"),
    [
        (lambda backend: backend.allocate("b", ask(MIB), never()), Executed.NO),
        (lambda backend: backend.write("a", 0, memoryview(bytearray(10)), never()), Executed.UNKNOWN),
        (lambda backend: backend.trim("sim:0"), Executed.UNKNOWN),
        (lambda backend: backend.free("a"), Executed.YES),
    ],
    ids=["allocate", "write", "trim", "free"],
)
def test_what_became_of_a_call(call: Callable[[IsolatedBackend], object], executed: Executed) -> None:
    """A call that the process did not survive says whether it was done: a free was, an allocation was not."""
    with isolated(clock=NoDelay()) as backend:
        backend.probe()
        backend.allocate("a", ask(MIB), never())
        child = backend._presence.child
        assert child is not None
        write, exchange = child._pipe.write, child._pipe.exchange

        def kill_then_write(text: bytes) -> None:
            kill(backend)
            write(text)

        def kill_then_exchange(text: bytes) -> object:
            kill(backend)
            return exchange(text)

        child._pipe.write, child._pipe.exchange = kill_then_write, kill_then_exchange
        with pytest.raises(DeviceUnavailableError, match="died of SIGKILL") as caught:
            call(backend)
        assert caught.value.executed is executed


def test_delays_double_up_to_half_a_minute(tmp_path: Path) -> None:
    """A device that cannot come back is tried again, ever more rarely, and is back once it can."""
    marker, clock = tmp_path / "updating", NoDelay()
    options = {"marker": str(marker), "total_bytes": MIB}
    with isolated("misbehaving_backends:starts_unless", clock=clock, **options) as backend:
        backend.probe()
        marker.touch()
        tried = threading.Semaphore(0)
        wait = clock.wait

        def counted(seconds: float | None, token: CancelToken) -> None:
            wait(seconds, token)
            if len(clock.delays) == 11 and marker.exists():
                marker.unlink()
                tried.release()

        clock.wait = counted
        kill(backend)
        assert tried.acquire(timeout=60)
        wait_for(backend, DeviceState.AVAILABLE)
        assert clock.delays[:11] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]


def test_no_orphans() -> None:
    """A device's process ends with the worker's, however that ended."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.unit.isolation import *\n"
        "with isolated() as made: made.probe(); print(made.pid, flush=True); sys.stdin.read()\n"
    )
    root = Path(__file__).resolve().parents[3]
    command, pipe = [sys.executable, "-c", script, root], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as worker:
        assert worker.stdout is not None
        process = psutil.Process(int(worker.stdout.readline()))
        worker.kill()
        worker.wait()
        psutil.wait_procs([process], timeout=30)
        assert not process.is_running()


def test_descriptors_are_given_back() -> None:
    """Processes that come and go leave no descriptors, threads or children behind."""
    process = psutil.Process()
    count = process.num_fds if hasattr(process, "num_fds") else process.num_handles
    with isolated() as backend:
        backend.probe()
    before, others = count(), set(process.children())
    for _ in range(3):
        with isolated(clock=NoDelay()) as backend:
            backend.probe()
            backend.restart(never())
            wait_for_another(backend, kill(backend))
    assert count() <= before
    assert not set(process.children()) - others
