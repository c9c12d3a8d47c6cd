"""Shared allocations: files that a host maps."""

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.vocabulary import Initialize, MemoryType
from tests.conformance.support import MIB, CancelledAt, contents
from worker.backends.cpu import CpuBackend
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.errors import CancelledError, OutOfMemoryError, UnsupportedError, WorkerError
from worker.core.records import AllocationRequest
from worker.telemetry.system import SystemMemory


@pytest.fixture
def token() -> CancelToken:
    """Return a token that nobody cancels."""
    return CancelToken(SystemClock().now_ns)


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
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.records import AllocationRequest
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


PLANTED = """
import fcntl, os, signal, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(f"{sys.argv[1]}/memory-worker-{1:016x}.lock", os.O_RDWR | os.O_CREAT, 0o666)
os.fchmod(fd, 0o666)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("planted", flush=True)
input()
print("untouched" if fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK else "opened")
"""


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="takes another user, and leases on files"
)
def test_lock_files_of_another_user(tmp_path: Path) -> None:
    """Another user's lock file is never opened: that user could hold the opening up for 45 seconds each."""
    open_to_all = Path(tempfile.mkdtemp(dir="/dev/shm"))
    open_to_all.chmod(0o1777)
    planting = [sys.executable, "-c", PLANTED, str(open_to_all)]
    try:
        with subprocess.Popen(planting, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline().rstrip() == b"planted"
            backend = CpuBackend(SystemMemory().read, SystemClock().now_ns, 0, open_to_all)
            assert backend.remove_orphans() == ()
            backend.close()
            assert other.communicate(b"\n")[0].rstrip() == b"untouched"
    finally:
        shutil.rmtree(open_to_all)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX has links and pipes in folders")
def test_lock_files_that_are_none(tmp_path: Path, shared: CpuBackend) -> None:
    """A link or a pipe of a lock file's name is not opened, and stays; nor does its target go."""
    target = tmp_path / "precious"
    target.write_text("precious")
    (tmp_path / f"memory-worker-{1:016x}.lock").symlink_to(target)
    os.mkfifo(tmp_path / f"memory-worker-{2:016x}.lock")
    assert shared.remove_orphans() == ()
    assert target.read_text() == "precious"
    assert len(list(tmp_path.glob("*.lock"))) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has words of its own for it")
def test_a_folder_that_can_not_be_looked_into(tmp_path: Path) -> None:
    """A worker starts all the same; who wants a file there is told what is wrong with the folder."""
    backend = CpuBackend(SystemMemory().read, SystemClock().now_ns, 0, tmp_path / ("x" * 300))
    assert backend.remove_orphans() == ()
    with pytest.raises(UnsupportedError, match="its path is longer than the system takes"):
        share(backend, "a", 1)
    backend.close()
