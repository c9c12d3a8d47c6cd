"""Files that a host maps: no room is an error and never a signal, and neither is a file that the host cut short."""

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.vocabulary import Initialize, MemoryType
from tests.conformance.support import CancelledAt
from tests.rigs.model_files import spec, write_model
from tests.rigs.small_filesystem import small_filesystem
from tests.unit.machine import MIB, FixedSystemMemory, Machine
from worker.backends import shared_buffer
from worker.backends.cpu import CpuBackend
from worker.backends.shared_buffer import SharedBuffer
from worker.core.cancellation import CancelToken
from worker.core.clock import FixedClock
from worker.core.errors import (
    CancelledError,
    ChecksumMismatchError,
    NoFileRoomError,
    OutOfMemoryError,
    UnsupportedError,
)
from worker.core.records import AllocationRequest

posix = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows cuts no mapped file short, and mounts no tmpfs"
)
SIZE = 3 * MIB + 5


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with room for 8 MiB."""
    with small_filesystem(tmp_path / "small", 8 * MIB) as folder:
        yield folder


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Return a machine whose shared files are in a folder of their own."""
    folder = tmp_path / "shared"
    folder.mkdir()
    made = Machine(folder)
    yield made
    made.close()
    assert list(folder.iterdir()) == []


@posix
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_folder_without_locks_is_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Shares are mounted without them: it is said at once, nothing stays, and all else goes on."""

    def none(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as without:
        without.setattr("fcntl.flock", none)
        with pytest.raises(UnsupportedError, match="its file system has no locks.*--shared-folder"):
            share(machine)
        assert list(machine.folder.iterdir()) == []
    _, path = share(machine)
    assert path.exists()


def make(folder: Path, size: int) -> SharedBuffer:
    return SharedBuffer(folder / "made", size, CancelToken(FixedClock().now_ns), lambda _: None)


def share(machine: Machine, size: int = SIZE) -> tuple[str, Path]:
    """Allocate; returns the id and the file."""
    made = machine.allocate("cpu", size, memory_type=MemoryType.SHARED)
    shared = machine.manager.allocations.get(made).block.shared_memory
    assert shared is not None
    return made, Path(shared.path)


@posix
def test_blocks_are_set_aside_at_once(small: Path) -> None:
    """What a shared allocation may use is taken from its file system when it is made, also if nobody zeroes it."""
    made = make(small, 5 * MIB)
    left = os.statvfs(small)
    assert left.f_bavail * left.f_frsize == 3 * MIB
    made.close()


@posix
@pytest.mark.parametrize("initialize", list(Initialize))
def test_the_refusal_names_the_folders_own_room(small: Path, initialize: Initialize) -> None:
    """A full file system is out_of_memory with that file system's room beside it; every figure is as before."""
    machine = Machine(small)
    kept, _ = share(machine, 6 * MIB)
    before = machine.figures()
    with pytest.raises(OutOfMemoryError) as refused:
        machine.allocate("cpu", 4 * MIB, memory_type=MemoryType.SHARED, initialize=initialize)
    assert refused.value.details == {
        "device_id": "cpu",
        "requested_bytes": 4 * MIB,
        "available_bytes": 2 * MIB,
        "evictable_bytes": 0,
        "folder": str(small),
    }
    assert str(small) in refused.value.message
    assert "--shared-folder" in refused.value.message
    assert refused.value.body().retryable
    with pytest.raises(OutOfMemoryError) as never:
        machine.allocate("cpu", 8 * MIB + 1, memory_type=MemoryType.SHARED, initialize=initialize)
    assert not never.value.body().retryable
    assert machine.figures() == before
    assert len(list(small.iterdir())) == 2  # the kept file, and the lock
    machine.memory.allocations.deallocate(kept, force=False)
    machine.close()


@posix
def test_a_folder_that_takes_no_more_files(tmp_path: Path) -> None:
    """Each file takes an inode: where there is none left it is no room, and not a folder that can't be written to."""
    with small_filesystem(tmp_path / "few", 8 * MIB, "nr_inodes=3") as folder:
        machine = Machine(folder)
        kept, _ = share(machine, MIB)  # the folder, the lock, and this
        before = machine.figures()
        with pytest.raises(NoFileRoomError, match="no room for another file.*--shared-folder"):
            share(machine, MIB)
        assert machine.figures() == before
        machine.memory.allocations.deallocate(kept, force=False)
        share(machine, MIB)
        machine.close()


@posix
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_folder_that_can_not_be_changed_for_a_while(tmp_path: Path, *, comes_back: bool) -> None:
    """What is freed meanwhile is freed, and the end is in order; files that stay are removed later, or by the next worker."""
    folder, away = tmp_path / "shared", tmp_path / "away"
    folder.mkdir()
    machine = Machine(folder)
    allocation_id, path = share(machine, MIB)
    folder.rename(away)
    folder.write_text("as a disk that failed: nothing below it can be removed")
    machine.memory.allocations.deallocate(allocation_id, force=False)
    machine.check()
    assert not machine.manager.allocations.all("cpu")
    if not comes_back:
        machine.close()
    folder.unlink()
    away.rename(folder)
    if comes_back:
        assert path.exists()
        machine.backends["cpu"].tick()
        assert not path.exists()
        machine.close()
    else:
        assert path in CpuBackend(FixedSystemMemory().read, FixedClock().now_ns, 0, folder).remove_orphans()
    assert list(folder.iterdir()) == []


@posix
def test_a_file_that_is_larger_than_the_process_may_write(machine: Machine) -> None:
    """RLIMIT_FSIZE is no full disk: more room would not help, and the limit is named."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    try:
        with pytest.raises(NoFileRoomError, match="ulimit -f") as refused:
            share(machine, 2 * MIB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not refused.value.body().retryable


@posix
def test_a_transfer_into_a_full_folder(small: Path) -> None:
    """A transfer for which its destination has no blocks fails before it begins; the source is whole."""
    machine = Machine(small)
    source = machine.allocate("cpu", 16 * MIB, initialize=Initialize.ZERO)
    before = machine.figures()
    with pytest.raises(NoFileRoomError):
        machine.transfer(source, "cpu", memory_type=MemoryType.SHARED)
    assert machine.figures() == before
    machine.close()


@posix
def test_no_model_goes_for_a_full_folder(small: Path, tmp_path: Path) -> None:
    """Room on a device is no room in a file system: nothing is unloaded for a file that does not fit there."""
    path = tmp_path / "m.safetensors"
    write_model(path, MIB, seed=1)
    machine = Machine(small, models=(spec(path, device_id="cpu"),))
    machine.load("m")
    request = AllocationRequest("cpu", 16 * MIB, MemoryType.SHARED)
    with pytest.raises(NoFileRoomError):
        machine.memory.allocations.allocate(
            machine.memory.allocations.new_id(), request, machine.token(), make_room=True
        )
    assert machine.memory.models.worker is machine.models
    assert machine.manager.pressure.status("cpu").model_bytes
    machine.memory.close()


@posix
def test_cancelled_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making a large file can be cancelled on the way; nothing of it is left."""
    monkeypatch.setattr(shared_buffer, "_STEP_BYTES", MIB)
    with pytest.raises(CancelledError):
        SharedBuffer(tmp_path / "made", 8 * MIB, CancelledAt(3), lambda _: None)
    assert list(tmp_path.iterdir()) == []


@posix
def test_where_the_system_sets_nothing_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without that call is written to, whole: what it does not take is refused as ever."""

    def unknown(*_: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unknown, raising=False)
    made = make(tmp_path, SIZE)
    assert made.path.stat().st_blocks * 512 >= SIZE
    made.close()
    with small_filesystem(tmp_path / "small", 2 * MIB) as folder:
        monkeypatch.setattr(shared_buffer, "_free_bytes", lambda _: None)
        with pytest.raises(NoFileRoomError):
            make(folder, SIZE)
        assert list(folder.iterdir()) == []


@posix
@pytest.mark.parametrize("left", [0, 4096, SIZE - 1])
@pytest.mark.parametrize("memory_type", [MemoryType.DEVICE, MemoryType.SHARED])
def test_a_host_that_cuts_a_file_short(machine: Machine, left: int, memory_type: MemoryType) -> None:
    """A copy out of what is no longer there is an error that says so; the allocation can be freed as any other."""
    made, path = share(machine)
    os.truncate(path, left)
    before = machine.figures()
    with pytest.raises(UnsupportedError, match=f"{left} of {SIZE} bytes are left") as refused:
        machine.transfer(made, "cpu", memory_type=memory_type)
    assert (refused.value.details["path"], refused.value.details["left_bytes"]) == (str(path), left)
    assert machine.figures() == before
    machine.memory.allocations.deallocate(made, force=False)
    assert not path.exists()


@posix
def test_a_host_that_cuts_the_destination_short(machine: Machine) -> None:
    """A copy into a file that is cut short meanwhile ends there, and is not made long again with a hole in it."""
    source = machine.allocate("cpu", 20 * MIB, initialize=Initialize.ZERO)
    before = machine.figures()

    def cut(completed: int, _total: int) -> None:
        for path in machine.folder.glob("memory-worker-*-alloc-*"):
            os.truncate(path, completed // 2)

    with pytest.raises(UnsupportedError, match="was cut short"):
        machine.transfer(source, "cpu", memory_type=MemoryType.SHARED, report=cut)
    assert machine.figures() == before


@posix
def test_what_a_host_spoils_is_found(machine: Machine) -> None:
    """What a host spoils while it is written is found where the copy is verified."""
    source = machine.allocate("cpu", 20 * MIB, initialize=Initialize.ZERO)
    machine.backends["cpu"].write(source, 0, memoryview(b"x" * MIB), machine.token())

    def spoil(completed: int, _total: int) -> None:
        for path in machine.folder.glob("memory-worker-*-alloc-*"):
            with path.open("r+b") as file:
                file.write(b"y")

    with pytest.raises(ChecksumMismatchError):
        machine.transfer(source, "cpu", memory_type=MemoryType.SHARED, report=spoil, verify=True)


@pytest.mark.parametrize("memory_type", [MemoryType.DEVICE, MemoryType.SHARED])
def test_contents_arrive(machine: Machine, memory_type: MemoryType) -> None:
    """What is in a file arrives to the byte, in memory and in another file, over several pieces."""
    size = 20 * MIB + 3
    made, path = share(machine, size)
    content = os.urandom(size)
    with path.open("r+b") as file:
        file.write(content)
    copy = machine.transfer(made, "cpu", memory_type=memory_type, verify=True)
    back = machine.transfer(copy, "cpu", memory_type=MemoryType.SHARED, verify=True)
    shared = machine.manager.allocations.get(back).block.shared_memory
    assert shared is not None
    assert Path(shared.path).read_bytes() == content
