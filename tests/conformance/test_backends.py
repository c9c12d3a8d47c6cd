"""What every backend owes the worker, held against all that this machine has."""

import contextlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from protocol.vocabulary import DeviceKind, DeviceState, Initialize, MemoryType
from tests.rigs.directml.rig import Rig
from worker.backends.base import DeviceBackend
from worker.backends.cpu import CpuBackend
from worker.backends.cuda import CudaBackend
from worker.backends.host_memory import address_of
from worker.backends.isolated import IsolatedBackend
from worker.backends.isolation.child_process import Launch
from worker.backends.simulated import SimulatedBackend, SimulatedDevice
from worker.core.cancellation import CancelToken
from worker.core.clock import FixedClock, SystemClock
from worker.core.errors import CancelledError, OutOfMemoryError, UnsupportedError, WorkerError
from worker.core.records import AllocationRequest, DeviceInfo
from worker.telemetry.system import SystemMemory

MIB = 2**20
Make = Callable[[Path], DeviceBackend]


def cpu(pool_bytes: int) -> Make:
    """Return what makes a CPU backend with a pool of this size."""
    return lambda folder: CpuBackend(SystemMemory().read, SystemClock().now_ns, pool_bytes, folder)


def simulated(**knobs: float) -> Make:
    """Return what makes a simulated device, of a size that is no multiple of anything."""
    device = SimulatedDevice(total_bytes=300 * MIB + 1000, **knobs)
    return lambda _: SimulatedBackend(0, device, FixedClock())


def isolated(**knobs: float) -> Make:
    """Return what makes the same simulated device in a process of its own."""
    factory = "worker.backends.simulated:simulated_in_process"
    options = {"index": 0, "standing": True, "total_bytes": 300 * MIB + 1000, **knobs}
    expected = (DeviceInfo("sim:0", DeviceKind.SIMULATED, "expected"),)
    launch = Launch(sys.executable, factory, options)
    return lambda _: IsolatedBackend(launch, expected, SystemClock())


def cuda(_: Path) -> DeviceBackend:
    """Return the machine's own CUDA devices. Skips where there is none."""
    made = CudaBackend(SystemClock().now_ns)
    if not any(info.state is DeviceState.AVAILABLE for info in made.probe()):
        made.close()
        pytest.skip("no CUDA device")
    return made


def torch_on_cpu(_: Path) -> DeviceBackend:
    """Return the same backend over torch's CPU tensors. Skips where there is no torch."""
    pytest.importorskip("torch")
    from tests.rigs.torch_on_cpu import TorchOnCpu, backend_on_cpu

    return backend_on_cpu(TorchOnCpu(300 * MIB + 1000, "rig:0"), SystemClock().now_ns)


BACKENDS = {
    "cpu-with-pool": cpu(256 * MIB),
    "cpu-without-pool": cpu(0),
    "simulated": simulated(),
    "simulated-slow": simulated(latency_ms=2.0, bandwidth_bytes_per_second=MIB),
    "isolated-simulated": isolated(),
    "torch-on-cpu": torch_on_cpu,
    "cuda": cuda,
}


DIRECTML = {"directml-untiled": "untiled", "directml-tiled": "tiled"}


@pytest.fixture(scope="session")
def directml(
    directml_python: Path, directml_libraries: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], DeviceBackend]]:
    """Return what makes the real torch_directml on a simulated machine, once each: its import takes seconds."""
    made: dict[str, IsolatedBackend] = {}

    def make(allocator: str) -> IsolatedBackend:
        if allocator not in made:
            rig = Rig(directml_libraries, tmp_path_factory.mktemp(allocator))
            launch = Launch(
                str(directml_python), "worker.backends.directml:DirectMlBackend", {"allocator": allocator}
            )
            expected = (DeviceInfo("dml:0", DeviceKind.DIRECTML, "DirectML"),)
            made[allocator] = backend = IsolatedBackend(launch, expected, SystemClock())
            with pytest.MonkeyPatch.context() as patch:
                for name, value in rig.environment(budget_bytes=2**30).items():
                    patch.setenv(name, value)
                assert backend.probe()[0].state is DeviceState.AVAILABLE
        return made[allocator]

    yield make
    for backend in made.values():
        backend.close()


@pytest.fixture(params=[*BACKENDS, *DIRECTML])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DeviceBackend]:
    """Return a backend; whatever a test did, nothing is left when it is closed."""
    if request.param in DIRECTML:
        made = request.getfixturevalue("directml")(DIRECTML[request.param])
        yield made
        for name in made.live():
            made.free(name)
        made.trim("dml:0")
        assert made.live() == frozenset()
        return
    made = BACKENDS[request.param](tmp_path)
    yield made
    made.close()
    assert made.live() == frozenset()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def device_id(backend: DeviceBackend) -> str:
    """Return the backend's only device; the first, where a machine has several."""
    return backend.probe()[0].device_id


@pytest.fixture
def token() -> CancelToken:
    """Return a token that nobody cancels."""
    return CancelToken(SystemClock().now_ns)


def rss() -> int:
    """Return the resident bytes of this process and of the devices' processes below it."""
    ours = psutil.Process()
    return sum(int(each.memory_info().rss) for each in (ours, *ours.children()))


@pytest.fixture
def never_shrinks(request: pytest.FixtureRequest) -> bool:
    """Tell whether what is freed stays with the process as long as that lives, and is told of as cached."""
    return bool(request.node.callspec.params["backend"] == "directml-tiled")


def all_of(size: int, *, never_shrinks: bool) -> object:
    """Return what ``freed`` has to equal: exact, but for a pool that is told of in tiles of a megabyte."""
    return pytest.approx(size, abs=2e6 if never_shrinks else 0)


def taken(backend: DeviceBackend, device_id: str) -> int:
    """Return the bytes that a witness sees taken: a GPU's driver, else the system."""
    if device_id.startswith("dml"):
        return backend.readings(device_id).process_used_bytes or 0
    if not device_id.startswith("cuda"):
        return rss()
    import torch

    free, total = torch.cuda.mem_get_info(device_id)
    return total - free


def freed(backend: DeviceBackend, device_id: str, name: str) -> int | None:
    """Free a block. Returns the bytes that went back or are told of as cached, None if that can't be told."""
    before = backend.readings(device_id).cached_bytes
    returned = backend.free(name)
    kept = backend.readings(device_id).cached_bytes - before
    return None if returned is None else returned + kept


def ask(
    device_id: str, size: int, initialize: Initialize = Initialize.ZERO, **more: object
) -> AllocationRequest:
    """Make a request."""
    return AllocationRequest(device_id, size, initialize=initialize, **more)


def contents(backend: DeviceBackend, name: str, size: int, token: CancelToken) -> bytes:
    """Read a block."""
    into = bytearray(size)
    backend.read(name, 0, memoryview(into), token)
    return bytes(into)


# ---- all of them ----


def test_probe(backend: DeviceBackend) -> None:
    """A probe finds the same devices, in the same order, every time."""
    assert backend.probe() == backend.probe()
    assert all(info.state is DeviceState.AVAILABLE for info in backend.probe())


@pytest.mark.parametrize("size", [1, 255, 256, 4095, 4096, 4097, MIB - 1, 2 * MIB, 5 * MIB + 3, 128 * MIB])
def test_blocks_of_all_sizes(
    backend: DeviceBackend, device_id: str, token: CancelToken, size: int, never_shrinks: bool
) -> None:
    """A block is live from allocate to free, holds at least what was asked for, and reads as zero."""
    before = backend.readings(device_id)
    block = backend.allocate("a", ask(device_id, size), token)
    assert block.actual_bytes >= size
    assert backend.live() == {"a"}
    during = backend.readings(device_id)
    assert during.resident_bytes - before.resident_bytes == block.actual_bytes
    assert contents(backend, "a", size, token) == bytes(size)
    told = freed(backend, device_id, "a")
    assert told is None or told == all_of(block.actual_bytes, never_shrinks=never_shrinks)
    assert backend.live() == frozenset()
    backend.trim(device_id)
    after = backend.readings(device_id)
    assert after.resident_bytes == before.resident_bytes
    assert never_shrinks or after.cached_bytes == before.cached_bytes


def test_write_and_read(backend: DeviceBackend, device_id: str, token: CancelToken) -> None:
    """What is written at an offset is read there, and nothing beside it is touched."""
    size, offset = 3 * MIB + 5, 2 * MIB + 1
    data = os.urandom(MIB)
    backend.allocate("a", ask(device_id, size), token)
    backend.allocate("b", ask(device_id, size), token)
    backend.write("a", offset, memoryview(data), token)
    found = contents(backend, "a", size, token)
    assert found[offset : offset + len(data)] == data
    assert found[:offset].count(0) == offset
    assert found[offset + len(data) :].count(0) == size - offset - len(data)
    assert contents(backend, "b", size, token) == bytes(size)
    into = bytearray(10)
    backend.read("a", offset, memoryview(into), token)
    assert into == data[:10]


def test_view(backend: DeviceBackend, device_id: str, token: CancelToken) -> None:
    """A view, where there is one, is exactly the block's bytes."""
    backend.allocate("a", ask(device_id, 5000), token)
    view = backend.view("a", writable=True)
    if view is None:
        return
    with view:
        assert len(view) == 5000
        view[4999] = 7
    assert contents(backend, "a", 5000, token)[4999] == 7


def test_zero_is_zero_after_reuse(backend: DeviceBackend, device_id: str, token: CancelToken) -> None:
    """Zero means zero, also in memory that was used before and kept."""
    size = 2 * MIB + 100
    for _ in range(6):
        backend.allocate("a", ask(device_id, size), token)
        assert contents(backend, "a", size, token).count(0) == size
        backend.write("a", 0, memoryview(b"\xff" * size), token)
        backend.free("a")


def test_none_touches_nothing(backend: DeviceBackend, device_id: str, token: CancelToken) -> None:
    """``none`` takes no memory of this process, whatever was used and kept before."""
    size = 128 * MIB
    for _ in range(3):
        backend.allocate("warm", ask(device_id, size), token)
        backend.free("warm")
    backend.trim(device_id)
    before = rss()
    backend.allocate("a", ask(device_id, size, Initialize.NONE), token)
    assert rss() - before < 4 * MIB
    if device_id == "cpu":
        assert backend.readings(device_id).resident_bytes == 0
        backend.write("a", 0, memoryview(b"x"), token)
        assert backend.readings(device_id).resident_bytes == size


def test_free_returns_what_was_taken(
    backend: DeviceBackend, device_id: str, token: CancelToken, never_shrinks: bool
) -> None:
    """Returned bytes are bytes that the process really had and has no more."""
    size, count = 16 * MIB, 8
    blocks = [backend.allocate(f"a{n}", ask(device_id, size), token) for n in range(count)]
    for n in range(count):
        backend.write(f"a{n}", 0, memoryview(b"\x01" * size), token)
    full, cached = taken(backend, device_id), backend.readings(device_id).cached_bytes
    returned = [backend.free(f"a{n}") or 0 for n in range(count)]
    returned.append(backend.trim(device_id) or 0)
    made = sum(block.actual_bytes for block in blocks)
    if never_shrinks:
        assert sum(returned) == 0
        kept = backend.readings(device_id).cached_bytes - cached
        assert kept == all_of(made, never_shrinks=True)
        return
    assert sum(returned) == made + cached
    assert full - taken(backend, device_id) == pytest.approx(sum(returned), rel=0.02)


def test_freeing_what_is_not_live(backend: DeviceBackend) -> None:
    """An unknown id is the caller's bug, and says so."""
    with pytest.raises(KeyError):
        backend.free("nothing")


def test_more_than_there_is(backend: DeviceBackend, device_id: str, token: CancelToken) -> None:
    """What cannot be had is out of memory, and nothing of it is left behind."""
    before = backend.readings(device_id)
    for size in (2**47, 2**62, 2**63 - 1):
        for initialize in Initialize:
            with pytest.raises(OutOfMemoryError):
                backend.allocate("a", ask(device_id, size, initialize), token)
            assert backend.live() == frozenset()
    assert backend.readings(device_id).resident_bytes == before.resident_bytes
    backend.allocate("a", ask(device_id, 1), token)


def test_largest_block_can_be_had(backend: DeviceBackend, device_id: str, token: CancelToken) -> None:
    """The largest block that a device reads as free is one that it gives."""
    backend.allocate("small", ask(device_id, 1000), token)
    largest = backend.readings(device_id).largest_block_bytes
    if largest is not None:
        backend.allocate("a", ask(device_id, largest, Initialize.NONE), token)


@pytest.mark.parametrize("alignment", [1, 4096, 2**16, 2 * MIB, 32 * MIB])
def test_alignment(
    backend: DeviceBackend, device_id: str, token: CancelToken, alignment: int, never_shrinks: bool
) -> None:
    """A block begins where it was asked to, where its address can be seen, and gives all of itself back."""
    block = backend.allocate("a", ask(device_id, 3 * MIB, alignment=alignment), token)
    view = backend.view("a", writable=True)
    if view is not None:
        with view:
            assert address_of(view) % alignment == 0
    assert contents(backend, "a", 3 * MIB, token) == bytes(3 * MIB)
    assert freed(backend, device_id, "a") == all_of(block.actual_bytes, never_shrinks=never_shrinks)


def test_pinned(backend: DeviceBackend, device_id: str) -> None:
    """A memory type that a device does not have is refused before anything is done."""
    for memory_type in MemoryType:
        request = ask(device_id, 1, memory_type=memory_type)
        with contextlib.suppress(UnsupportedError):
            backend.check(request)
    refused = MemoryType.PINNED if device_id == "cpu" else MemoryType.SHARED
    with pytest.raises(UnsupportedError):
        backend.check(ask(device_id, 1, memory_type=refused))


class CancelledAt(CancelToken):
    """A token that is cancelled at its nth check."""

    def __init__(self, nth: int) -> None:
        super().__init__(SystemClock().now_ns)
        self.left = nth

    def check(self) -> None:
        """Count down."""
        self.left -= 1
        if self.left == 0:
            self.cancel()
        super().check()


@pytest.mark.parametrize("nth", [1, 2])
def test_cancelled_allocation(backend: DeviceBackend, device_id: str, nth: int) -> None:
    """An allocation that is cancelled, at whatever step, leaves nothing behind."""
    before, resident = backend.readings(device_id), rss()
    try:
        backend.allocate("a", ask(device_id, 128 * MIB + 1), CancelledAt(nth))
    except CancelledError:
        assert backend.live() == frozenset()
        assert backend.readings(device_id).resident_bytes == before.resident_bytes
        assert rss() - resident < 4 * MIB
    else:
        assert (device_id != "cpu", nth) == (True, 2), "only a device that is done at once may be"


def test_cancelled_copies(
    backend: DeviceBackend, device_id: str, token: CancelToken, never_shrinks: bool
) -> None:
    """A cancelled copy says so, and the block can be freed with all its bytes."""
    block = backend.allocate("a", ask(device_id, 8 * MIB), token)
    piece = memoryview(bytearray(8 * MIB))
    for copy in (backend.write, backend.read):
        with pytest.raises(CancelledError):
            copy("a", 0, piece, CancelledAt(1))
    assert freed(backend, device_id, "a") == all_of(block.actual_bytes, never_shrinks=never_shrinks)


def test_caches_are_given_up(
    backend: DeviceBackend, device_id: str, token: CancelToken, never_shrinks: bool
) -> None:
    """What is kept for reuse is told of as cached, and gone after a trim."""
    for _ in range(4):
        backend.allocate("a", ask(device_id, 4 * MIB), token)
        backend.free("a")
    cached = backend.readings(device_id).cached_bytes
    assert backend.trim(device_id) in {0 if never_shrinks else cached, None}
    assert backend.readings(device_id).cached_bytes == (cached if never_shrinks else 0)
    backend.tick()


def test_defragment_keeps_contents(
    backend: DeviceBackend, device_id: str, token: CancelToken, never_shrinks: bool
) -> None:
    """Joining free memory leaves every block as it is, and one free range where that can be done in place."""
    for n in range(10):
        backend.allocate(f"a{n}", ask(device_id, MIB), token)
        backend.write(f"a{n}", 0, memoryview(bytes([n]) * MIB), token)
    for n in range(0, 10, 2):
        backend.free(f"a{n}")
    joined = backend.defragment(device_id)
    pieces = backend.readings(device_id).fragmentation
    assert (joined is None) == (pieces is None or never_shrinks)
    if joined is not None and pieces is not None:
        assert joined.moved == 5
        assert pieces.largest_free_block_bytes == pieces.free_bytes
        assert pieces.fragmentation_percentage == 0
    for n in range(1, 10, 2):
        assert contents(backend, f"a{n}", MIB, token) == bytes([n]) * MIB


def test_readings_agree_with_themselves(backend: DeviceBackend, device_id: str, token: CancelToken) -> None:
    """No figure is negative or larger than what it is a part of."""
    backend.allocate("a", ask(device_id, 10 * MIB), token)
    found = backend.readings(device_id)
    assert found.total_bytes is not None
    assert found.budget_bytes is not None
    assert found.free_bytes is not None
    assert found.used_bytes is not None
    assert 0 <= found.free_bytes <= found.total_bytes
    assert 0 < found.budget_bytes <= found.total_bytes
    assert 0 < found.used_bytes <= found.total_bytes
    if found.process_used_bytes is not None:
        assert 0 <= found.resident_bytes <= found.process_used_bytes
    else:
        assert device_id.startswith("cuda"), "only a GPU's driver may not know"
    assert backend.notes()


def test_many_threads(backend: DeviceBackend, device_id: str, token: CancelToken) -> None:
    """Threads that allocate and free at once find what is theirs, and leave nothing."""
    failures: list[BaseException] = []

    def work(me: int) -> None:
        try:
            for turn in range(25):
                name, size = f"{me}-{turn}", 4096 * (1 + (turn * 7 + me) % 300)
                backend.allocate(name, ask(device_id, size), token)
                backend.write(name, size - 1, memoryview(bytes([me])), token)
                assert contents(backend, name, size, token) == bytes(size - 1) + bytes([me])
                backend.readings(device_id)
                backend.free(name)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(me,)) for me in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert backend.live() == frozenset()
    backend.trim(device_id)
    assert backend.readings(device_id).resident_bytes == 0


# ---- shared files: what a host can map ----


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[CpuBackend]:
    """Return a CPU backend whose shared files are in a folder of their own."""
    made = CpuBackend(SystemMemory().read, SystemClock().now_ns, 0, tmp_path)
    yield made
    made.close()


def share(backend: CpuBackend, name: str, size: int, initialize: Initialize = Initialize.ZERO) -> Path:
    """Allocate a shared block; returns its file."""
    request = AllocationRequest("cpu", size, MemoryType.SHARED, initialize)
    made = backend.allocate(name, request, CancelToken(SystemClock().now_ns)).shared_memory
    assert made is not None
    assert made.size_bytes == size
    return Path(made.path)


def test_shared_file_is_mapped_by_another_process(shared: CpuBackend, token: CancelToken) -> None:
    """Another process maps the file, reads what the worker wrote, and writes what the worker reads."""
    path = share(shared, "a", 10_001)
    if sys.platform != "win32":  # there, who may read it is the folder's to say
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == 10_001
    shared.write("a", 10_000, memoryview(b"W"), token)
    script = (
        "import mmap, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0);"
        "assert len(m) == 10001 and m[10000:] == b'W' and m[0] == 0; m[0:4] = b'host'"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert contents(shared, "a", 10_001, token)[:4] == b"host"
    shared.free("a")
    assert not path.exists()


def test_close_removes_shared_files(shared: CpuBackend, tmp_path: Path) -> None:
    """Closing removes every file and the lock."""
    share(shared, "a", 1)
    share(shared, "b", 5 * MIB, Initialize.NONE)
    shared.close()
    assert list(tmp_path.iterdir()) == []


def test_failed_shared_allocation_leaves_no_file(shared: CpuBackend, tmp_path: Path) -> None:
    """A file that its filesystem cannot hold, or that was cancelled, is not there."""
    kept = share(shared, "a", 1)
    with pytest.raises(OutOfMemoryError):
        share(shared, "b", 2**62)
    with pytest.raises(CancelledError):
        shared.allocate("c", AllocationRequest("cpu", 8192, MemoryType.SHARED), CancelledAt(1))
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"} == {kept.name}
    assert shared.live() == {"a"}


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    """A folder that cannot be used is an error with a code; once it can be, files in it are locked as ever."""
    folder = tmp_path / "later"
    backend = CpuBackend(SystemMemory().read, SystemClock().now_ns, 0, folder)
    with contextlib.suppress(OSError, WorkerError):
        share(backend, "a", 1)
    folder.mkdir()
    share(backend, "b", 1)
    assert len(list(folder.glob("*.lock"))) == 1
    backend.close()
    assert list(folder.iterdir()) == []


def test_freeing_a_shared_block_that_is_still_viewed(shared: CpuBackend, tmp_path: Path) -> None:
    """Windows has files mapped: one that a copy still looks at goes after that. Elsewhere there is no map of ours."""
    path = share(shared, "a", 8192)
    view = shared.view("a", writable=True)
    assert (view is not None) == (sys.platform == "win32")
    shared.free("a")
    assert path.exists() == (sys.platform == "win32")
    if view is not None:
        view.release()
    shared.tick()
    assert not path.exists()


def test_first_shared_blocks_at_once(tmp_path: Path) -> None:
    """Threads that make the first shared blocks at the same moment share one lock."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for turn in range(20):
            folder = tmp_path / str(turn)
            folder.mkdir()
            backend = CpuBackend(SystemMemory().read, SystemClock().now_ns, 0, folder)
            start = threading.Barrier(4)

            def make(me: int, backend: CpuBackend = backend, start: threading.Barrier = start) -> None:
                start.wait()
                share(backend, f"a{me}", 1)

            threads = [threading.Thread(target=make, args=(me,)) for me in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            names = [path.name for path in folder.iterdir()]
            assert len({name.split("-")[2].split(".")[0] for name in names}) == 1, names
            assert len(names) == 5
            backend.close()
            assert list(folder.iterdir()) == []
    finally:
        sys.setswitchinterval(interval)


KILLED = """
import os, signal, sys
from pathlib import Path
from protocol.vocabulary import MemoryType
from worker.backends.cpu import CpuBackend
from worker.backends.isolated import IsolatedBackend
from worker.backends.isolation.child_process import Launch
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.records import AllocationRequest, DeviceInfo
from worker.telemetry.system import SystemMemory
now = SystemClock().now_ns
backend = CpuBackend(SystemMemory().read, now, 0, Path(sys.argv[1]))
backend.allocate("x", AllocationRequest("cpu", 4096, MemoryType.SHARED), CancelToken(now))
print("made", flush=True)
input()
"""


def test_what_a_killed_worker_left(tmp_path: Path, shared: CpuBackend) -> None:
    """A killed worker's files are removed at the next start; a living one's, and strangers', are not."""
    mine = share(shared, "mine", 1)
    stranger = tmp_path / "memory-worker-notes.txt"
    stranger.write_text("not a worker's")
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().rstrip() == b"made"
        fresh = CpuBackend(SystemMemory().read, SystemClock().now_ns, 0, tmp_path)
        assert fresh.remove_orphans() == ()
        left = {path for path in tmp_path.iterdir() if path.name.endswith("-x")}
        other.kill()
        other.wait()
        assert len(left) == 1
        assert set(fresh.remove_orphans()) == left
        assert fresh.remove_orphans() == ()
    assert mine.exists()
    assert stranger.exists()
    assert len(list(tmp_path.glob("*.lock"))) == 1
    assert not any(path.exists() for path in left)


# ---- models' weights ----


def fill_with(content: bytes) -> Callable[[memoryview | None, Callable[[int, memoryview], None]], None]:
    """Return what fills a model's block, in place where that is possible."""

    def fill(view: memoryview | None, write: Callable[[int, memoryview], None]) -> None:
        half = len(content) // 2
        if view is not None:
            view[: len(content)] = content
            return
        write(0, memoryview(content)[:half])
        write(half, memoryview(content)[half:])

    return fill


def test_weights_are_what_was_filled_in_and_go_at_once(
    backend: DeviceBackend, device_id: str, token: CancelToken, never_shrinks: bool
) -> None:
    """A model's block reads back to the byte, and what unloading it returns is all of it: no pool keeps it."""
    content = os.urandom(3 * MIB + 5)
    before = backend.readings(device_id)
    block = backend.load("weights-1", ask(device_id, len(content)), fill_with(content), token)
    assert backend.live() == {"weights-1"}
    assert backend.readings(device_id).resident_bytes == before.resident_bytes + block.actual_bytes
    read = bytearray(len(content))
    backend.read("weights-1", 0, memoryview(read), token)
    assert read == content
    cached = backend.readings(device_id).cached_bytes
    returned = backend.unload("weights-1") or 0
    kept = max(0, backend.readings(device_id).cached_bytes - cached)  # what else was cached may go with it
    assert returned + kept == all_of(block.actual_bytes, never_shrinks=never_shrinks)
    after = backend.readings(device_id)
    assert after.resident_bytes == before.resident_bytes
    assert never_shrinks or after.cached_bytes == before.cached_bytes


@pytest.mark.parametrize("failure", [OSError("no"), CancelledError("no"), OutOfMemoryError("no")])
def test_a_load_that_fails_leaves_nothing(
    backend: DeviceBackend, device_id: str, token: CancelToken, failure: Exception
) -> None:
    """Whatever the filling ends with goes on to the caller, and the block is gone."""
    before = backend.readings(device_id)

    def fill(view: memoryview | None, write: Callable[[int, memoryview], None]) -> None:
        fill_with(bytes(MIB))(view, write)
        raise failure

    with pytest.raises(type(failure)):
        backend.load("weights-1", ask(device_id, 2 * MIB), fill, token)
    assert backend.live() == frozenset()
    assert backend.readings(device_id).resident_bytes == before.resident_bytes
