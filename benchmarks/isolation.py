"""What a process of its own costs a device: per call, per GiB, per restart, and until the first answer."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import truediv
from pathlib import Path
from statistics import median

import psutil

from benchmarks.harness import heading, interleaved, row, seconds, worker
from protocol.vocabulary import DeviceKind, MemoryType
from worker.backends.base import DeviceBackend
from worker.backends.block_copy import copy_block
from worker.backends.cpu import CpuBackend
from worker.backends.host_memory import AnonymousBuffer, address_of, copy
from worker.backends.isolated import IsolatedBackend
from worker.backends.isolation.child_process import Launch
from worker.backends.isolation.slots import SLOT_BYTES, SLOTS
from worker.backends.simulated import simulated_in_process
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.records import AllocationRequest, DeviceInfo
from worker.telemetry.system import SystemMemory

MIB, GIB = 2**20, 2**30
ROUNDS = 9
CALLS = 200
STARTS = 7
CAPACITY = 4 * GIB


def main() -> None:
    """Print the ratios."""
    here = simulated_in_process(0, total_bytes=CAPACITY)
    apart = isolated_device()
    apart.probe()
    heading("A simulated device: in a process of its own against in this one", "the same backend here")
    for name, work in (
        ("allocate + free, us", _calls(_allocate_and_free)),
        ("readings asked of the device, us", _calls(lambda backend: backend.readings("sim:0"))),
    ):
        ours, floor = interleaved(ROUNDS, partial(work, apart), partial(work, here))
        row(name, ours, floor, "us", "measured")
    _questions(apart)
    if hasattr(os, "sched_setaffinity"):
        with on_one_cpu():
            _against_the_pipe(here)
            _bulk(apart, "everything on one CPU")
    _bulk(apart, "on all CPUs")
    here.close()
    apart.close()
    _restarts()
    _first_answers()


@contextmanager
def on_one_cpu() -> Iterator[None]:
    """Have this process and its children take turns: what one does costs the other, and no idle core has to wake."""
    allowed = os.sched_getaffinity(0)
    _pin({min(allowed)})
    try:
        yield
    finally:
        _pin(allowed)


def _pin(cpus: set[int]) -> None:
    for pid in (os.getpid(), *(child.pid for child in psutil.Process().children())):
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cpus)


def _against_the_pipe(here: DeviceBackend) -> None:
    """Say what isolation adds to an allocate + free, beside two round trips through a bare pipe.

    By the time that both processes have had a CPU: they take turns on one, and what else runs there is not counted. In
    several processes one after the other, for where the system has put two that take turns makes half as much again.
    """
    read_fd, their_write = os.pipe()
    their_read, write_fd = os.pipe()
    echo = subprocess.Popen(
        [sys.executable, "-c", _ECHO, str(their_read), str(their_write)],
        pass_fds=(their_read, their_write),
    )
    os.close(their_read)
    os.close(their_write)

    def round_trips() -> None:
        for _ in range(2):
            os.write(write_fd, bytes(64))
            os.read(read_fd, 64)

    def each_us(call: Callable[[], object], pid: int | None) -> float:
        before = cpu_ns(os.getpid()) + cpu_ns(pid)
        for _ in range(CALLS):
            call()
        return (cpu_ns(os.getpid()) + cpu_ns(pid) - before) / CALLS / 1e3

    added: list[float] = []
    floors: list[float] = []
    starts: list[float] = []
    for _ in range(STARTS):
        apart = isolated_device()
        apart.probe()
        for _ in range(ROUNDS):
            in_process = each_us(lambda: _allocate_and_free(here), None)
            floors.append(each_us(round_trips, echo.pid))
            added.append(each_us(partial(_allocate_and_free, apart), apart.pid) - in_process)
        apart.close()
        starts.append(median(map(truediv, added[-ROUNDS:], floors[-ROUNDS:])))
    row("isolation adds (floor: 2 round trips)", median(added), median(floors), "us", "<= 3")
    print(f"{'':44} in each process {', '.join(f'{each:.2f}x' for each in sorted(starts))}")
    os.close(write_fd)
    echo.wait()
    os.close(read_fd)


def cpu_ns(pid: int | None) -> int:
    """Return how long a process has had a CPU, with its threads that ended; 0 for no process.

    Its clock by clock_getcpuclockid(3), which Python does not have: the id, inverted, above the kind (2, by the scheduler).
    """
    return 0 if pid is None else time.clock_gettime_ns(~pid << 3 | 2)


_ECHO = "import os,sys\nr,w=map(int,sys.argv[1:])\nwhile (d:=os.read(r,64)): os.write(w,d)"


def isolated_device(**knobs: int) -> IsolatedBackend:
    """Return a simulated device in a process of its own."""
    options = {"index": 0, "total_bytes": CAPACITY, **knobs}
    launch = Launch(sys.executable, "worker.backends.simulated:simulated_in_process", options)
    expected = (DeviceInfo("sim:0", DeviceKind.SIMULATED, "expected"),)
    return IsolatedBackend(launch, expected, SystemClock())


def fresh_token() -> CancelToken:
    """Return a token that ends nothing."""
    return CancelToken(time.monotonic_ns)


def _calls(call: Callable[[DeviceBackend], object]) -> Callable[[DeviceBackend], float]:
    def work(backend: DeviceBackend) -> float:
        return seconds(lambda: [call(backend) for _ in range(CALLS)]) / CALLS * 1e6

    return work


def _allocate_and_free(backend: DeviceBackend) -> None:
    backend.allocate("small", AllocationRequest("sim:0", 4096), fresh_token())
    backend.free("small")


def _questions(apart: IsolatedBackend) -> None:
    """Say what a question for figures costs while others ask it, too: the page is written all the time."""

    def ask(_: DeviceBackend) -> None:
        if apart.recent_readings("sim:0", None) is None:
            raise AssertionError

    while apart.recent_readings("sim:0", None) is None:
        time.sleep(0.01)
    took = min(_calls(ask)(apart) for _ in range(ROUNDS))
    print(f"{'a question for figures, us':44} {took:10.2f}{'':26} target <= 5")


def _bulk(apart: IsolatedBackend, where: str) -> None:
    """Say how fast 1 GiB is copied between host memory and the device, beside memcpy of the same.

    All memory has been written to before. And beside what no way through slots can beat on one CPU: copying twice, in pieces.
    """
    apart.allocate("block", AllocationRequest("sim:0", GIB), fresh_token())
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        host = CpuBackend(SystemMemory().read, time.monotonic_ns, 0, Path(folder), mappable=True)
        for name, kind in (
            ("others", MemoryType.DEVICE),
            ("other", MemoryType.DEVICE),
            ("shared", MemoryType.SHARED),
        ):
            host.allocate(name, AllocationRequest("cpu", GIB, kind, overwritten=True), fresh_token())
        heading(
            f"1 GiB between host memory and a device in a process, {where}",
            "memcpy; a ratio below 1 is slower",
        )
        _copied(host, "others", apart, "block"), _copied(apart, "block", host, "shared")
        _memcpy(host)
        for name, least in (("others", 0.6), ("shared", 0.9)):
            for way, ends in (
                ("write", (host, name, apart, "block")),
                ("read", (apart, "block", host, name)),
            ):
                copying = partial(_copied, *ends)
                ours, floor = interleaved(5, copying, partial(_memcpy, host))
                row(f"{way}, {name}, GiB/s", 1 / ours, 1 / floor, "GiB/s", f">= {least}")
        ours, floor = interleaved(5, partial(_memcpy_twice, host), partial(_memcpy, host))
        row("twice, through 2 MiB, GiB/s", 1 / ours, 1 / floor, "GiB/s", "measured")
        host.close()
    apart.free("block")


def _memcpy(host: CpuBackend) -> float:
    views = [host.view(name, writable=True) for name in ("other", "others")]
    to, from_ = (address_of(view) for view in views if view is not None)
    return seconds(lambda: copy(to, from_, GIB))


def _memcpy_twice(host: CpuBackend) -> float:
    """Copy through pieces of a slot's size in this process: what a copy through slots does, without another process."""
    views = [host.view(name, writable=True) for name in ("other", "others")]
    to, from_ = (address_of(view) for view in views if view is not None)
    slots = AnonymousBuffer(SLOTS * SLOT_BYTES)

    def twice() -> None:
        for offset in range(0, GIB, SLOT_BYTES):
            slot = slots.address + offset % slots.size_bytes
            copy(slot, from_ + offset, SLOT_BYTES)
            copy(to + offset, slot, SLOT_BYTES)

    took = seconds(twice)
    slots.close()
    return took


def _copied(source: DeviceBackend, source_id: str, destination: DeviceBackend, destination_id: str) -> float:
    return seconds(
        lambda: copy_block(source, source_id, destination, destination_id, GIB, fresh_token(), lambda _: None)
    )


def _restarts() -> None:
    """Restart with so much alive, and as much dead; with nothing alive beside starting the process."""
    heading("A restart with nothing alive, milliseconds", "starting the process")
    backend = isolated_device()
    backend.probe()
    ours, floor = interleaved(ROUNDS, lambda: seconds(lambda: backend.restart(fresh_token())), _start)
    row("restart", ours * 1e3, floor * 1e3, "ms", "<= 1.5")
    backend.close()
    print(f"\n{'Restart of a pool of 64 MiB blocks':44} {'seconds':>10} {'returned':>10} {'of dead':>8}")
    for live in (0, 256 * MIB, GIB):
        backend = isolated_device(pooled=1)
        backend.probe()
        count = max(1, live // (64 * MIB))
        for n in range(2 * count if live else 4):
            backend.allocate(f"a{n}", AllocationRequest("sim:0", 64 * MIB), fresh_token())
        names = sorted(backend.live())
        for name in names[:: 2 if live else 1]:
            backend.free(name)
        dead = backend.readings("sim:0").restart_returns_bytes or 0
        started = time.perf_counter()
        done = backend.restart(fresh_token())
        took = time.perf_counter() - started
        back = (done.returned_bytes or 0) / dead
        print(
            f"{f'{live // MIB} MiB alive':44} {took:10.2f} {(done.returned_bytes or 0) // MIB:6} MiB {back:8.1%}"
        )
        backend.close()


def _start() -> float:
    """Start a device's process."""
    backend = isolated_device()
    took = seconds(backend.probe)
    backend.close()
    return took


def _first_answers() -> None:
    """Start a worker whose probe does not end, and one that has nothing to probe."""
    heading("First answer of a new worker, milliseconds", "nothing to probe")
    with tempfile.TemporaryDirectory() as folder:
        stuck = Path(folder) / "python"
        stuck.write_text("#!/bin/sh\nexec sleep 600\n")
        stuck.chmod(0o755)
        for name, options in (
            ("a probe that never ends", ("--directml-python", str(stuck))),
            ("an interpreter without torch_directml", ("--directml-python", sys.executable)),
        ):
            ours, floor = interleaved(ROUNDS, partial(_first_answer, *options), _first_answer)
            row(name, ours, floor, "ms", "<= 1.1")


def _first_answer(*options: str) -> float:
    started = time.perf_counter()
    with worker(*options) as peer:
        peer.ask("memory.get_status")
        return (time.perf_counter() - started) * 1e3


if __name__ == "__main__":
    main()
