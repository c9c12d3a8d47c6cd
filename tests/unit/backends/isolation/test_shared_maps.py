"""Copies between a device's process and files that a host maps: through a map that the process keeps."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.isolation import (
    MIB,
    SHARED_BYTES,
    content_of,
    isolated,
    never,
    shared_content,
    shared_name,
)
from worker.backends.block_copy import copy_block
from worker.backends.cpu import CpuBackend
from worker.backends.isolated import IsolatedBackend
from worker.core.errors import DeviceUnavailableError, UnsupportedError
from worker.core.records import AllocationRequest

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="there shared memory is addressable, and no file"),
    pytest.mark.usefixtures("rigs"),
]


def maps(backend: IsolatedBackend, path: str) -> bool:
    """Tell whether the process maps a file."""
    return path in Path(f"/proc/{backend.pid}/maps").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process maps")
def test_a_map_is_kept_as_long_as_its_file(host: CpuBackend) -> None:
    """One map for all copies; a second at most after the allocation is freed it is gone, and so is the memory."""
    with isolated() as backend:
        backend.probe()
        backend.allocate("a", AllocationRequest("sim:0", SHARED_BYTES), never())
        path = shared_name(host)
        for _ in range(2):
            copy_block(host, "shared", backend, "a", SHARED_BYTES, never(), lambda _: None)
            assert maps(backend, path)
            backend.tick()
            backend.live()
            assert maps(backend, path)
        host.free("shared")
        while maps(backend, path):
            backend.tick()
            backend.live()


def test_what_cannot_be_mapped_goes_another_way(host: CpuBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process does not find the file, its bytes go through the worker."""
    with isolated() as backend:
        backend.probe()
        backend.allocate("a", AllocationRequest("sim:0", SHARED_BYTES), never())
        monkeypatch.setattr(host, "shared_file", lambda _: "/nowhere/file")
        copy_block(host, "shared", backend, "a", SHARED_BYTES, never(), lambda _: None)
        assert content_of(backend, "a", SHARED_BYTES) == shared_content(host)


def test_a_file_that_is_cut_short_in_the_middle_of_a_copy(host: CpuBackend) -> None:
    """The copy fails with what to do; the process lives, with all that is on its device."""
    with isolated("misbehaving_backends:CutsShort", path=shared_name(host)) as backend:
        backend.probe()
        backend.allocate("a", AllocationRequest("sim:0", SHARED_BYTES), never())
        pid = backend.pid
        for _ in range(2):
            with pytest.raises(UnsupportedError, match="cut short from outside: 5 of .* make it anew"):
                copy_block(host, "shared", backend, "a", SHARED_BYTES, never(), lambda _: None)
        assert backend.pid == pid
        assert backend.live() == {"a"}


def test_a_signal_of_something_else(host: CpuBackend) -> None:
    """A process that touches what is gone elsewhere dies of that, as it does when nothing is copied."""
    with isolated("misbehaving_backends:TouchesWhatIsGone") as backend:
        backend.probe()
        backend.allocate("a", AllocationRequest("sim:0", SHARED_BYTES), never())
        with pytest.raises(DeviceUnavailableError, match="died of SIGBUS"):
            copy_block(host, "shared", backend, "a", SHARED_BYTES, never(), lambda _: None)


_IN_USE = """
import ctypes, os, sys
from worker.backends.host_memory import address_of
from worker.backends.isolation import guarded_map, shared_maps, touch_guard
from worker.core.errors import OutOfMemoryError, UnsupportedError
path, size, refusals = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
map_anonymous, refused = guarded_map.map_anonymous, []

def refuses(length, address):
    if len(refused) < refusals:
        refused.append(length)
        raise (OutOfMemoryError("no memory"), MemoryError())[len(refused) % 2]
    return map_anonymous(length, address)

guarded_map.map_anonymous = refuses
maps = shared_maps.SharedMaps(touch_guard.TouchGuard())
try:
    with maps.using(path, size) as view:
        with maps.using(path, size // 2):
            pass
        os.truncate(path, 5)
        ctypes.memmove(ctypes.create_string_buffer(size), address_of(view), size)
except UnsupportedError as error:
    print(error.message, len(refused))
"""


_BESIDE = """
import ctypes, os, sys
from worker.backends.host_memory import address_of
from worker.backends.isolation import shared_maps, touch_guard
from worker.core.errors import UnsupportedError
short, whole, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
maps = shared_maps.SharedMaps(touch_guard.TouchGuard())
with maps.using(whole, size) as beside:
    try:
        with maps.using(short, size) as view:
            os.truncate(short, 5)
            ctypes.memmove(ctypes.create_string_buffer(size), address_of(view), size)
    except UnsupportedError as error:
        print(error.message)
    print(bytes(beside) == bytes([7]) * size)
"""


def test_what_is_copied_beside_a_file_that_is_cut_short(tmp_path: Path) -> None:
    """A file that is whole stays what it is, and the copy of it goes on."""
    short, whole = tmp_path / "short", tmp_path / "whole"
    for path in (short, whole):
        path.write_bytes(bytes([7]) * MIB)
    command = [sys.executable, "-c", _BESIDE, str(short), str(whole), str(MIB)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, (ran.returncode, ran.stderr)
    assert f"{short} was cut short from outside: 5 of {MIB} bytes are left" in ran.stdout
    assert ran.stdout.endswith("True\n")


@pytest.mark.parametrize("refusals", [0, 3], ids=["memory at once", "memory after a while"])
def test_a_map_in_use_is_looked_after_whatever_comes_meanwhile(tmp_path: Path, refusals: int) -> None:
    """A file that is cut short ends no process: not while its path has another map by now, nor while memory is short."""
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * MIB))
    command = [sys.executable, "-c", _IN_USE, str(path), str(2 * MIB), str(refusals)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, (ran.returncode, ran.stderr)
    assert f"5 of {2 * MIB} bytes are left" in ran.stdout
    assert ran.stdout.endswith(f" {refusals}\n")


_SLOW = """
import os, signal
from worker.backends.isolation import touch_guard
from worker.core.sure_lock import SureEvent

class Disk:
    # It tells of a failed touch once a minute: so long after the one before that no wait for it sees the next.
    def __init__(self):
        self.left = 5
    def register(self, *_):
        pass
    def poll(self, limit_ms=None):
        if limit_ms is not None:
            return []
        if not self.left:
            os._exit(3)
        self.left -= 1
        signal.raise_signal(signal.SIGBUS)
        return [True]

class Map:
    spoiled = False
    def is_short(self):
        return False
    def spoil(self):
        print("spoiled", disk.left, flush=True)
        os._exit(0)

disk = Disk()
touch_guard.select.poll = lambda: disk
touch_guard.TouchGuard().begin(Map())
SureEvent().wait()
"""


def test_a_disk_that_takes_long_to_fail() -> None:
    """A touch that fails for good is ended when it is told of again, however much later that is."""
    ran = subprocess.run(
        [sys.executable, "-c", _SLOW], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "spoiled 3\n"), ran.stderr


_GOES = """
import threading
from worker.backends.isolation import touch_guard
asked, ended, looked = threading.Event(), threading.Event(), threading.Event()

class Short:
    spoiled = False
    def is_short(self):
        asked.set()
        ended.wait(0.1)  # as long as it takes, or for ever: who ends waits for this
        return True
    def spoil(self):
        self.spoiled = True

class Beside:
    spoiled = False
    closed = False
    def is_short(self):
        if self.closed:
            print("asked a map that was closed", flush=True)
        looked.set()
        return False
    def spoil(self):
        pass

guard, beside = touch_guard.TouchGuard(), Beside()
guard.begin(Short())
guard.begin(beside)
touch_guard.signal.raise_signal(touch_guard.signal.SIGBUS)
asked.wait()
guard.end(beside)
beside.closed = True
ended.set()
looked.wait()
"""


def test_a_map_that_goes_out_of_use_meanwhile() -> None:
    """Nothing is put in the place of a map that may be closed by then."""
    ran = subprocess.run(
        [sys.executable, "-c", _GOES], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
