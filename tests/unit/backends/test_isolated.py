"""A backend in a process of its own: probed, lost, brought back and restarted, with real processes that misbehave."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from protocol.vocabulary import DeviceState, Executed, MemoryType
from tests.unit.isolation import (
    MIB,
    RIGS,
    NoDelay,
    content_of,
    fill,
    isolated,
    kill,
    never,
    wait_for,
    wait_for_another,
)
from worker.backends.isolated import IsolatedBackend
from worker.backends.isolation import answers, asking, launching
from worker.backends.isolation.child_process import ChildProcess
from worker.backends.isolation.slots import SLOTS
from worker.core.cancellation import CancelToken
from worker.core.errors import (
    CancelledError,
    ChecksumMismatchError,
    DeadlineExceededError,
    DeviceUnavailableError,
    OutOfMemoryError,
    UnsupportedError,
)
from worker.core.records import AllocationRequest, DeviceInfo


@pytest.fixture(autouse=True)
def _rigs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", RIGS)


def ask(size: int) -> AllocationRequest:
    """Ask for memory."""
    return AllocationRequest("sim:0", size)


# ---- probing ----


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lacks_a_module", "torch_directml_that_is_nowhere is not installed in {python}: install it"),
        (
            "lacks_a_library",
            "the probe with {python} failed: OSError: libd3d12-that-is-nowhere.so: cannot open",
        ),
        ("has_a_broken_module", "the probe with {python} failed: ImportError: undefined symbol: _ZN3c10"),
        ("Raises", "the probe with {python} failed: RuntimeError: Unknown error -2147467259"),
        (
            "Segfaults",
            "the probe with {python} did not survive: process {pid} died of SIGSEGV (segmentation fault",
        ),
        ("Exits", "process {pid} ended with exit code 5; its last words: cannot go on"),
        ("FindsNothing", "{python} finds no such device"),
        ("SaysNo", "too old a driver"),
        ("not_there", "AttributeError: module 'misbehaving_backends' has no attribute 'not_there'"),
    ],
)
def test_probes_that_fail(name: str, said: str) -> None:
    """However a probe fails, the device is listed with the cause in words, and whoever asks it is told that."""
    remedies = {"torch_directml_that_is_nowhere": "install it"}
    others = set(psutil.Process().children())
    with isolated(f"misbehaving_backends:{name}", remedies=remedies) as backend:
        (info,) = backend.probe()
        assert info.state is DeviceState.UNAVAILABLE
        assert info.state_reason is not None
        before, pid, after = said.replace("{python}", sys.executable).partition("{pid}")
        assert before in info.state_reason and after in info.state_reason.partition(before)[2 if pid else 0]
        with pytest.raises(DeviceUnavailableError, match="unavailable") as caught:
            backend.allocate("a", ask(1), never())
        assert caught.value.executed is Executed.NO
        assert backend.live() == frozenset()
        assert not set(psutil.Process().children()) - others


def test_probe_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that does not end is ended, with the process."""
    monkeypatch.setattr(launching, "PROBE_PATIENCE_S", 0.5)
    with isolated("misbehaving_backends:Hangs") as backend:
        (info,) = backend.probe()
        assert info.state is DeviceState.UNAVAILABLE
        assert "did not answer 'start' within 0.5 s and was killed" in (info.state_reason or "")


def test_no_such_interpreter() -> None:
    """A path that is wrong is named."""
    with isolated(python="/nowhere/python") as backend:
        (info,) = backend.probe()
        assert (
            info.state_reason
            == "no process can be started with /nowhere/python: there is no such file: correct its path, or put it there"
        )


def test_probing_is_shown_and_told_of() -> None:
    """Until it is known, a device is probing; then whoever listens is told."""
    told = []
    with isolated() as backend:
        assert [each.state for each in backend.devices] == [DeviceState.PROBING]
        backend.begin(told.append)
        assert backend.probe()[0].state is DeviceState.AVAILABLE
        with backend._presence.telling:
            assert told == [backend.devices]


def test_an_interpreter_without_our_dependencies(tmp_path: Path) -> None:
    """The process runs under a bare interpreter, and gets only what is pure Python from this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    for module in ("pydantic", "orjson", "psutil", "annotated_types"):
        assert subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode
    with isolated(python=str(python)) as backend:
        assert backend.probe()[0].state is DeviceState.AVAILABLE
        assert fill(backend, "b", 3 * MIB, 2) == content_of(backend, "b", 3 * MIB)
        assert str(python) in backend.notes()[0]


def test_what_it_prints_is_not_taken_for_answers(capfd: pytest.CaptureFixture[str]) -> None:
    """Prints go to stderr, in Python and in C."""
    with isolated("misbehaving_backends:Prints") as backend:
        assert backend.probe()[0].state is DeviceState.AVAILABLE
        backend.readings("sim:0")
    out, err = capfd.readouterr()
    assert out == ""
    assert "hello from a library\n" in err and "hello from C\n" in err


# ---- calling ----


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
    monkeypatch.setattr(answers, "READS_ALONE", True)
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


# ---- loss ----


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
    with isolated("misbehaving_backends:HangsInReadings") as backend:
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
def test_what_waits_for_a_hung_process_can_be_given_up() -> None:
    """A deadline, or a cancel, ends every wait in a moment; what was done in the end is undone, and no slot is lost."""
    with isolated(standing=False) as backend:
        backend.probe()
        expected = fill(backend, "a", 5 * MIB, 1)
        os.kill(backend.pid or 0, signal.SIGSTOP)
        began = time.monotonic()
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
        assert time.monotonic() - began < 10, "of 20 s that it is given to answer"
        os.kill(backend.pid or 0, signal.SIGCONT)
        while backend.live() != {"a"}:
            threading.Event().wait(0.01)
        assert content_of(backend, "a", 5 * MIB) == expected
        assert len(backend._slots._free) == SLOTS


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
        send = child._pipe.send

        def kill_then_send(message: list[object], **more: bool) -> None:
            kill(backend)
            send(message, **more)

        child._pipe.send = kill_then_send
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


# ---- restarting ----


def test_restart_keeps_every_byte() -> None:
    """Everything is there again under the same name, in another process, and what was dead has gone back."""
    with isolated(pooled=1) as backend:
        backend.probe()
        rng = random.Random(5)
        contents = {}
        for n in range(12):
            size = rng.choice([1, 4095, MIB, 2 * MIB, 5 * MIB + 3])
            contents[f"a{n}"] = fill(backend, f"a{n}", size, n)
        weights = random.Random(99).randbytes(7 * MIB + 1)
        backend.load("w", ask(len(weights)), lambda _, write: write(0, memoryview(weights)), never())
        contents["w"] = weights
        for n in range(0, 12, 3):
            backend.free(f"a{n}")
            del contents[f"a{n}"]
        before, pid = backend.readings("sim:0"), backend.pid
        done = backend.restart(never())
        after = backend.readings("sim:0")
        assert backend.pid != pid
        assert not psutil.pid_exists(pid or 0)
        assert (done.moved, done.displaced) == (len(contents), {})
        assert before.cached_bytes == before.restart_returns_bytes == done.returned_bytes > 0
        assert after.cached_bytes == 0
        assert after.resident_bytes == before.resident_bytes
        assert after.largest_block_bytes == after.free_bytes, "largest first leaves one free range"
        assert {name: content_of(backend, name, len(it)) for name, it in contents.items()} == contents
        backend.unload("w")
        for name in contents.keys() - {"w"}:
            backend.free(name)
        assert backend.live() == frozenset()


def test_restart_that_is_cancelled() -> None:
    """Until the old process ends nothing has changed, and nothing is left of it."""
    with isolated() as backend:
        backend.probe()
        expected, pid = fill(backend, "a", 5 * MIB, 1), backend.pid
        token = never()
        token.cancel()
        with pytest.raises(CancelledError):
            backend.restart(token)
        assert backend.pid == pid
        assert content_of(backend, "a", 5 * MIB) == expected


def test_restart_of_what_cannot_be_read() -> None:
    """A block that reads differently each time would be carried over wrong: nothing is done."""
    with isolated("misbehaving_backends:Misreads") as backend:
        backend.probe()
        fill(backend, "a", 100, 1)
        pid = backend.pid
        with pytest.raises(ChecksumMismatchError, match="a reads differently the second time"):
            backend.restart(never())
        assert backend.pid == pid


def test_restart_without_a_new_process(tmp_path: Path) -> None:
    """Where no new process starts, what was carried stays in host memory, usable, and is put back into the next."""
    marker, told = tmp_path / "updating", []
    options = {"marker": str(marker), "total_bytes": 64 * MIB}
    with isolated("misbehaving_backends:starts_unless", clock=NoDelay(), **options) as backend:
        backend.begin(told.append)
        backend.probe()
        expected = fill(backend, "a", MIB, 1)
        fill(backend, "b", MIB, 2)
        marker.touch()
        with pytest.raises(DeviceUnavailableError, match="in host memory until .*being updated") as caught:
            backend.restart(never())
        assert caught.value.executed is Executed.NO
        last = [devices[0] for devices in told][-1]
        assert (last.state, last.displaced) == (DeviceState.UNAVAILABLE, {"a", "b"})
        assert content_of(backend, "a", MIB) == expected
        assert backend.free("b") == MIB, "of host memory"
        marker.unlink()
        wait_for(backend, DeviceState.AVAILABLE)
        with backend._presence.changed:
            assert backend._presence.changed.wait_for(lambda: not backend.devices[0].displaced, 30)
        assert content_of(backend, "a", MIB) == expected
        assert backend.live() == {"a"}


def test_restart_into_a_process_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new process that dies while it is being filled takes nothing with it: the copies go into the next."""
    from worker.backends.isolation import restarting as module

    with isolated(clock=NoDelay()) as backend:
        backend.probe()
        expected = fill(backend, "a", MIB, 1)
        write_back, died = module.write_back, []

        def dying(child: ChildProcess, *more: Any) -> Any:
            if len(died) < 2:
                died.append(child.pid)
                os.kill(child.pid, signal.SIGKILL)
            return write_back(child, *more)

        monkeypatch.setattr(module, "write_back", dying)
        done = backend.restart(never())
        assert (done.moved, done.displaced) == (1, {})
        assert len(died) == 2 and backend.pid not in died
        assert content_of(backend, "a", MIB) == expected


def test_restart_into_less_memory(tmp_path: Path) -> None:
    """What finds no room stays in host memory, is read, written and counted there, and returns once there is some."""
    marker = tmp_path / "second"
    with isolated("misbehaving_backends:Shrinks", marker=str(marker)) as backend:
        backend.probe()
        small = fill(backend, "small", MIB, 1)
        large = fill(backend, "large", 9 * MIB, 2)
        fill(backend, "other", 9 * MIB, 3)
        free = backend.readings("sim:0").free_bytes or 0
        done = backend.restart(never())
        why = "another program has it now"
        assert (done.moved, done.displaced) == (1, {"large": why, "other": why})
        assert backend.live() == {"small", "large", "other"}
        (info,) = backend.devices
        assert (info.state, info.displaced) == (DeviceState.AVAILABLE, {"large", "other"})
        assert info.state_reason == f"2 blocks of {18 * MIB} bytes wait in host memory: {why}"
        assert backend.readings("sim:0").free_bytes == free, "the room for their return is promised"
        assert content_of(backend, "small", MIB) == small
        assert content_of(backend, "large", 9 * MIB) == large
        backend.write("large", 5, memoryview(bytearray(b"new")), never())
        assert backend.free("other") == 9 * MIB
        assert backend.devices[0].displaced == {"large"}
        large = large[:5] + b"new" + large[8:]
        again = backend.restart(never())
        assert again.moved == 1, "of what was there"
        marker.unlink()
        backend.tick()
        with backend._presence.changed:
            assert backend._presence.changed.wait_for(lambda: not backend.devices[0].displaced, 30)
        assert backend.live() == {"small", "large"}
        assert content_of(backend, "large", 9 * MIB) == large
        assert backend.free("large") == 9 * MIB


def test_a_device_whose_displaced_blocks_were_freed_is_as_any_other(tmp_path: Path) -> None:
    """Once the last of them is gone no reason is told, and whoever follows the device hears of that."""
    with isolated("misbehaving_backends:Shrinks", marker=str(tmp_path / "second")) as backend:
        backend.probe()
        for name in ("large", "other"):
            fill(backend, name, 9 * MIB, 2)
        backend.restart(never())
        told: list[tuple[DeviceInfo, ...]] = []
        backend._presence.on_change = told.append
        for name in ("large", "other"):
            backend.free(name)
        (info,) = backend.devices
        assert (info.state_reason, info.displaced) == (None, frozenset())
        assert told[-1] == (info,)


def test_callers_wait_for_a_restart() -> None:
    """Whoever comes while a process is replaced is answered by the next one."""
    with isolated() as backend:
        backend.probe()
        expected = fill(backend, "a", 20 * MIB, 1)
        failures: list[BaseException] = []
        started, going = threading.Barrier(4), True

        def work(me: int) -> None:
            try:
                started.wait(30)
                turn = 0
                while going:
                    turn += 1
                    name = f"{me}-{turn}"
                    backend.allocate(name, ask(4096), never())
                    assert content_of(backend, "a", 100) == expected[:100]
                    backend.free(name)
            except BaseException as error:  # noqa: BLE001 - handed to the test
                failures.append(error)

        threads = [threading.Thread(target=work, args=(me,)) for me in range(3)]
        for thread in threads:
            thread.start()
        started.wait(30)
        for _ in range(2):
            backend.restart(never())
        going = False
        for thread in threads:
            thread.join(30)
        assert failures == []
        assert backend.live() == {"a"}
        assert content_of(backend, "a", 20 * MIB) == expected


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
