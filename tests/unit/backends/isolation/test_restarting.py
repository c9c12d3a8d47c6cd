"""A backend's process is restarted: every byte is kept, or what was lost is named, and its callers wait."""

import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from protocol.vocabulary import DeviceState, Executed
from tests.unit.isolation import MIB, NoDelay, ask, content_of, fill, isolated, never, wait_for
from worker.backends.isolation.child_process import ChildProcess
from worker.core.errors import CancelledError, ChecksumMismatchError, DeviceUnavailableError
from worker.core.records import DeviceInfo

pytestmark = pytest.mark.usefixtures("rigs")


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
