"""The figures of docs/directml.md: the real torch_directml in a process, on the simulated driver, whose books are the witness.

``python -m benchmarks.directml``. Times are of this machine, busy or not; bytes are the same on every one.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.harness import seconds
from protocol.vocabulary import DeviceKind, Initialize
from tests.rigs.directml.build import build
from tests.rigs.directml.environment import interpreter
from tests.rigs.directml.rig import Rig
from tests.rigs.directml.wheel import Wheel
from worker.backends.isolated import IsolatedBackend
from worker.backends.isolation.child_process import Launch
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.errors import OutOfMemoryError, WorkerError
from worker.core.records import AllocationRequest, DeviceInfo

MIB, GIB = 2**20, 2**30
BUDGET_BYTES = 24 * GIB
SIZES = (64 * MIB, 256 * MIB, 1_500_000_000)
TOKEN = CancelToken(SystemClock().now_ns)


def main() -> None:
    """Print a row a figure, and a column an allocator."""
    python, libraries = interpreter(), build()
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(libraries, Path(folder))
        columns = [dict(_column(python, rig, allocator)) for allocator in ("untiled", "tiled")]
    print(f"{'budget 24 GiB':48} {'untiled':>24} {'tiled':>24}")
    for name in columns[0]:
        print(f"{name:48} {columns[0][name]:>24} {columns[1][name]:>24}")
    with tempfile.TemporaryDirectory() as folder:
        _in_the_library(python, Rig(libraries, Path(folder)))


def _column(python: Path, rig: Rig, allocator: str) -> Iterator[tuple[str, str]]:
    for size in SIZES:
        with _started(python, rig, allocator) as backend:
            yield from _filled(backend, rig, size)
    with _started(python, rig, allocator) as backend:
        yield "largest block", f"{_largest(backend):,} B"
        backend.trim("dml:0")
        yield from _times(backend)
    started, replaced = [], []
    for _ in range(3):
        began = time.perf_counter()
        with _started(python, rig, allocator) as backend:
            started.append((time.perf_counter() - began) * 1e3)
            replaced.append(_ms(lambda: backend.restart(TOKEN)))
    yield "starting the process", _median(started)
    yield "restart with nothing alive", _median(replaced)


def _filled(backend: IsolatedBackend, rig: Rig, size: int) -> Iterator[tuple[str, str]]:
    """Fill a device with blocks of one size, then free every other one, then all."""
    count, of = 0, f"blocks of {size // 10**6} MB"
    while _made(backend, f"a{count}", size):
        count += 1
    full = rig.witness.device_bytes()
    yield f"{of}: they got", f"{count * size / 1e9:.2f} GB"
    for n in range(0, count, 2):
        backend.free(f"a{n}")
    backend.trim("dml:0")
    back = (full - rig.witness.device_bytes()) / full
    yield f"{of}: every other one freed, driver had back", f"{back:.0%}"
    largest = backend.readings("dml:0").largest_block_bytes or 0
    fits = _made(backend, "twice", 2 * size)
    yield f"{of}: then twice the size", "fits" if fits else f"refused, largest {largest / 1e9:.2f} GB"
    for name in backend.live():
        backend.free(name)
    backend.trim("dml:0")
    yield f"{of}: all freed and cleared, still held", f"{rig.witness.device_bytes():,} B"


def _largest(backend: IsolatedBackend) -> int:
    """Return the largest size that can be had, by halves."""
    least, most = 1, 4 * GIB
    while most - least > 1:
        size = (least + most) // 2
        try:
            backend.check(_ask(size))
            least = size
        except WorkerError:
            most = size
    backend.allocate("largest", _ask(least), TOKEN)
    backend.free("largest")
    return least


def _times(backend: IsolatedBackend) -> Iterator[tuple[str, str]]:
    """Time an allocation in new memory, or in a pool's, as a caller of the backend sees it; and copies."""
    took = []
    for n in range(30):
        size = MIB + n * 64 * 1024
        took.append(_ms(partial(backend.allocate, f"t{n}", _ask(size), TOKEN)))
    yield "an allocation of 1 to 3 MiB", _median(took)
    for n in range(30):
        backend.free(f"t{n}")
    flushed = [_ms(lambda: backend.trim("dml:0"))]
    for _ in range(5):
        backend.allocate("one", _ask(40 * MIB), TOKEN)
        backend.free("one")
        flushed.append(_ms(lambda: backend.trim("dml:0")))
    yield "a clear of caches, first", f"{flushed[0]:.1f} ms"
    yield "a clear of caches", _median(flushed[1:])
    size = 256 * MIB
    backend.allocate("copied", _ask(size), TOKEN)
    data = memoryview(bytearray(size))
    backend.write("copied", 0, data, TOKEN)
    written = [_ms(lambda: backend.write("copied", 0, data, TOKEN)) for _ in range(3)]
    read = [_ms(lambda: backend.read("copied", 0, data, TOKEN)) for _ in range(3)]
    yield "write of 256 MiB", f"{0.25e3 / statistics.median(written):.2f} GiB/s"
    yield "read of 256 MiB", f"{0.25e3 / statistics.median(read):.2f} GiB/s"


_TIMED = """
import time
def timed(make, times=30):
    took = []
    for _ in range(times):
        started = time.perf_counter(); made = make(); took.append((time.perf_counter() - started) * 1e3)
    return sorted(took)[times // 2]
"""


def _in_the_library(python: Path, rig: Rig) -> None:
    """Ask the library itself: what an allocation takes there, and which element types end the process."""
    for tiled in (False, True):
        with Wheel(python, rig.environment(budget_bytes=BUDGET_BYTES, tiled=tiled)) as wheel:
            wheel.run(_TIMED)
            wheel.run("kept, sizes = [], iter(range(2**20, 2**30, 65536))")
            wheel.run("took = timed(lambda: kept.append(empty(next(sizes))))")
            print(
                f"{'an allocation in the library, ' + ('tiled' if tiled else 'untiled'):48} {wheel.run('took'):.2f} ms"
            )
    for kind in (
        "float16",
        "float64",
        "int64",
        "bool",
        "bfloat16",
        "float8_e4m3fn",
        "uint16",
        "uint32",
        "uint64",
        "complex64",
    ):
        with Wheel(python, rig.environment(budget_bytes=GIB)) as wheel:
            try:
                wheel.run(f"made = torch.empty(16, dtype=torch.{kind}, device=dml.device(0))")
                said = "works"
            except EOFError as error:
                said = f"ends the process: {str(error).splitlines()[0][:60]}"
            except Exception as error:  # noqa: BLE001 - whatever the library says of it is the figure
                said = f"raises {error}"
        print(f"{'torch.empty of ' + kind:48} {said}")
    _ends_of_blocks(python, rig)


_WRITE_THE_END = """
block = empty({size})
block.narrow(0, {size} - 1, 1).copy_(torch.ones(1, dtype=torch.uint8))
written = int(block.narrow(0, {size} - 256, 256).cpu()[-1])
"""


def _ends_of_blocks(python: Path, rig: Rig) -> None:
    """Write the last byte of a block, in a process that has no other: which sizes end it."""
    sizes = [2**power + more for power in range(16, 25) for more in (-256, 0, 256)]
    ended = []
    for size in sizes:
        with Wheel(python, rig.environment(budget_bytes=GIB)) as wheel:
            try:
                wheel.run(_WRITE_THE_END.format(size=size))
            except EOFError:
                ended.append(size)
                continue
            if wheel.run("written") != 1:
                raise AssertionError(size)
    print(f"{'a write of the last byte ends the process':48} {len(ended)} of {len(sizes)} sizes: {ended}")


@contextmanager
def _started(python: Path, rig: Rig, allocator: str) -> Iterator[IsolatedBackend]:
    """Start a device on the simulated machine, alone on it."""
    os.environ.update(rig.environment(budget_bytes=BUDGET_BYTES))
    launch = Launch(str(python), "worker.backends.directml:DirectMlBackend", {"allocator": allocator})
    backend = IsolatedBackend(launch, (DeviceInfo("dml:0", DeviceKind.DIRECTML, "expected"),), SystemClock())
    try:
        backend.probe()
        yield backend
    finally:
        backend.close()


def _made(backend: IsolatedBackend, name: str, size: int) -> bool:
    try:
        backend.allocate(name, _ask(size), TOKEN)
    except OutOfMemoryError:
        return False
    return True


def _ask(size: int) -> AllocationRequest:
    return AllocationRequest("dml:0", size, initialize=Initialize.NONE)


def _ms(work: Callable[[], object]) -> float:
    return seconds(work) * 1e3


def _median(took: list[float]) -> str:
    return f"{statistics.median(took):.1f} ms ({min(took):.1f} to {max(took):.1f})"


if __name__ == "__main__":
    main()
