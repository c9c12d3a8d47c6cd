"""Weights that stay in their file: the same bytes, held against whoever writes to it, and given back as measured."""

import gc
import json
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest

from protocol.vocabulary import UnloadMode
from tests.rigs.model_files import contents, spec, write_model
from tests.unit.machine import MIB, Machine
from worker.backends import mapped_file
from worker.backends.cpu import CpuBackend
from worker.backends.file_lease import FileLease
from worker.backends.mapped_file import MappedFile, file_identity
from worker.backends.simulated import SimulatedDevice
from worker.core.cancellation import CancelToken
from worker.core.errors import CancelledError, ModelBusyError, ModelLoadFailedError, OutOfMemoryError
from worker.core.models import Placement
from worker.core.records import FileRange
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureEvent
from worker.loaders.registry import loader_of
from worker.plugins._leases import Models

linux = pytest.mark.skipif(sys.platform != "linux", reason="leases on files and smaps are Linux's")
Make = Callable[..., Machine]
SIZES = (3 * MIB + 7, 0, MIB)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a model of three tensors."""
    path = tmp_path / "m.safetensors"
    write_model(path, *SIZES, seed=5)
    return path


@pytest.fixture
def make(tmp_path: Path, path: Path) -> Iterator[Make]:
    """Return what puts a machine together with that model on the CPU; nothing of the file stays mapped."""
    made: list[Machine] = []

    def put_together(*devices: SimulatedDevice, path: Path = path, **more: Any) -> Machine:
        shared = tmp_path / "shared"
        shared.mkdir(exist_ok=True)
        made.append(Machine(shared, *devices, models=(spec(path, **{"device_id": "cpu"} | more),)))
        return made[-1]

    yield put_together
    for machine in made:
        machine.check()
        machine.memory.close()
    assert mappings(path) == 0


def mappings(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path)) if sys.platform == "linux" else 0


def wanted() -> dict[str, bytes]:
    return {f"layer.{index}": contents(size, 5000 + index) for index, size in enumerate(SIZES)}


def read(machine: Machine) -> dict[str, bytes]:
    with Models(machine.models, machine.clock).use("m") as weights:
        return {name: bytes(weights[name]) for name in weights}


def cpu(machine: Machine) -> CpuBackend:
    backend = machine.backends["cpu"]
    assert isinstance(backend, CpuBackend)
    return backend


def let_writers_in(machine: Machine) -> None:
    """Do what the clock does every second, and wait for the end of it."""
    begun = list[SureEvent]()

    def start(run: Callable[[], object], name: str) -> SureEvent:
        begun.append(start_thread(run, name))
        return begun[-1]

    with patch("worker.backends.cpu.start_thread", start):
        cpu(machine).tick()
    for each in begun:
        assert each.wait(20)


@linux
@pytest.mark.parametrize("placement", [Placement.AUTO, Placement.MAP])
def test_mapped_weights_are_the_files_own_bytes_and_count_like_any(
    make: Make, path: Path, placement: Placement
):
    """A mapped model is in the ledger, the readings and the admission by its bytes, and unloading returns them."""
    machine = make(placement=placement)
    gc.collect()  # what earlier tests left behind must not be closed in between
    descriptors = psutil.Process().num_fds()
    free = cpu(machine).readings("cpu").free_bytes
    loaded = machine.load("m")
    assert read(machine) == wanted() and mappings(path) == 1
    assert loaded.measured_bytes is not None and loaded.estimated_bytes is not None
    assert 0 <= loaded.measured_bytes - loaded.estimated_bytes <= 2 * mmap.PAGESIZE
    status = machine.manager.pressure.status("cpu")
    assert (status.model_bytes, status.allocated_bytes) == (loaded.estimated_bytes, 0)
    readings = cpu(machine).readings("cpu")
    assert free is not None and readings.free_bytes == free - loaded.measured_bytes
    assert readings.resident_bytes == loaded.measured_bytes
    unloaded = machine.memory.models.unload("m", UnloadMode.UNLOAD, machine.token())
    assert unloaded.returned_bytes == loaded.measured_bytes
    assert mappings(path) == 0 and psutil.Process().num_fds() == descriptors
    assert cpu(machine).readings("cpu").free_bytes == free


def test_a_copy_is_the_workers_own(make: Make, path: Path):
    """With ``copy`` nothing is mapped, and what becomes of the file does not matter."""
    machine = make(placement=Placement.COPY)
    machine.load("m")
    assert mappings(path) == 0
    path.write_bytes(b"")
    assert read(machine) == wanted()


def test_on_another_device_weights_are_copies_whatever_was_asked_for(make: Make, path: Path):
    """Only the machine's own memory can hold a map: elsewhere ``map`` is a copy."""
    machine = make(SimulatedDevice(20 * MIB), device_id="sim:0", placement=Placement.MAP)
    assert machine.load("m").device_id == "sim:0"
    assert mappings(path) == 0 and read(machine) == wanted()


@linux
def test_a_writer_waits_until_the_weights_are_the_workers_own_and_readers_see_no_change(
    make: Make, path: Path
):
    """A writer is held off until the bytes are copied out of the file, under a reader who sees no change."""
    machine = make()
    machine.load("m")
    with Models(machine.models, machine.clock).use("m") as weights:
        before = weights["layer.0"]
        with pytest.raises(BlockingIOError):
            os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK)
        assert before == wanted()["layer.0"] and mappings(path) == 1
        let_writers_in(machine)
        assert mappings(path) == 0
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK))
        assert path.stat().st_size == 0
        assert before == wanted()["layer.0"]
        before.release()
    assert read(machine) == wanted()
    unloaded = machine.memory.models.unload("m", UnloadMode.UNLOAD, machine.token())
    assert unloaded.returned_bytes == pytest.approx(sum(SIZES), abs=3 * mmap.PAGESIZE)


@linux
def test_a_writer_that_waits_for_longer_than_it_has_to_leaves_zeros_and_the_model_is_loaded_again(path: Path):
    """When the system ends the lease by itself the map is stale, and what the file lost reads as zeros."""
    with path.open("rb") as file:
        identity = file_identity(file.fileno())
        mapped = MappedFile(
            FileRange(file.fileno(), 0, os.fstat(file.fileno()).st_size, identity, str(path)), guarded=True
        )
    with pytest.raises(BlockingIOError):
        os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    assert mapped.is_wanted() and not mapped.stale
    lease, mapped._lease = mapped._lease, None
    assert isinstance(lease, FileLease)
    lease.release()  # as the system does by itself after 45 s
    os.truncate(path, MIB)
    assert mapped.stale
    mapped._lease = lease
    mapped.give_way()
    assert mapped.stale and not mapped.in_place
    with mapped.view as view:
        assert view[:MIB] == path.read_bytes() and not any(view[MIB:])
    mapped.close()


@linux
def test_where_somebody_has_the_file_open_to_write_only_who_insists_gets_it_mapped(make: Make, path: Path):
    """Without a lease ``auto`` copies, and ``map`` maps; a file that is written to is loaded again at its next use."""
    with path.open("r+b") as writer:
        careful = make()
        careful.load("m")
        assert mappings(path) == 0 and read(careful) == wanted()
        daring = make(placement=Placement.MAP)
        daring.load("m")
        assert mappings(path) == 1 and read(daring) == wanted()
        writer.seek(-MIB, os.SEEK_END)
        writer.write(bytes(MIB))
        writer.flush()
        os.utime(path, ns=(0, 0))  # a write within a tick of the file system's clock
        assert read(daring) == wanted() | {"layer.2": bytes(MIB)}
        assert [each.reason for each in daring.decisions if each.reason] == [
            "unloaded: its file was written to"
        ]
        assert daring.manager.models.get("m").load_count == 2
        with Models(daring.models, daring.clock).use("m"):
            os.utime(path, ns=(1, 1))
            with pytest.raises(ModelBusyError):
                read(daring)
        assert read(careful) == wanted() | {"layer.2": bytes(MIB)}


def strange(path: Path, dtype: str, size: int, pad: int) -> None:
    """Write a file whose only tensor of more than a byte begins anywhere."""
    header = json.dumps(
        {
            "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
            "b": {"dtype": dtype, "shape": [1, size // 4], "data_offsets": [1, 1 + size]},
        }
    ).encode()
    header += b" " * ((pad - 8 - len(header)) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes([7]) + contents(size, 1))


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({}, "tensor 'b' can't be mapped: it begins at byte"),
        ({"dtype": "F16"}, "tensor 'b' can't be mapped: it is cast from F32 to F16"),
    ],
)
def test_what_can_not_stay_in_its_file_is_copied_unless_it_must(
    make: Make, path: Path, more: dict, cause: str
):
    """Casts and misaligned tensors are copied by ``auto``, and refused with the cause by ``map``."""
    if more:
        pytest.importorskip("torch")
    strange(path, "F32", MIB, pad=0)
    with pytest.raises(ModelLoadFailedError, match=cause):
        make(placement=Placement.MAP, **more).load("m")
    machine = make(**more)
    assert machine.load("m").state == "loaded"
    found = read(machine)
    assert mappings(path) == 0 and found["a"] == bytes([7])
    assert more or found["b"] == contents(MIB, 1)


def test_a_loader_that_can_not_leave_weights_in_their_file_says_so(make: Make, tmp_path: Path):
    """``map`` with a loader that only copies is refused by that loader's name; ``auto`` copies."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "m.pt"
    torch.save({"a": torch.ones(3)}, path)
    with pytest.raises(ModelLoadFailedError, match="its loader torch can't leave weights in their file"):
        make(placement=Placement.MAP, loader="torch", path=path).load("m")
    assert make(loader="torch", path=path).load("m").state == "loaded"


def test_a_file_of_no_bytes_is_no_reason_to_fail(make: Make, path: Path):
    """A model without any weights is loaded; only ``map`` has nothing to map."""
    write_model(path, 0)
    assert make().load("m").state == "loaded"
    with pytest.raises(ModelLoadFailedError, match="it has no bytes to be mapped"):
        make(placement=Placement.MAP).load("m")


def test_a_file_that_is_written_to_while_it_is_opened_is_not_mapped(path: Path):
    """A file that changed between the reading of its header and its map is an error."""
    wants = spec(path, placement=Placement.MAP)
    opened = loader_of(wants).open(wants)
    os.truncate(path, MIB)
    with pytest.raises(OSError, match="written to while it was opened"):
        MappedFile(opened.in_place().file, guarded=False)
    opened.close()


@linux
@pytest.mark.parametrize("advice", [mapped_file.POPULATE_READ, 9999])
def test_a_file_that_is_cut_short_while_it_is_read_is_an_error_and_no_signal(path, monkeypatch, advice):
    """Losing the file's end while it is read is an error in words, by whichever way it is read."""
    monkeypatch.setattr(mapped_file, "POPULATE_READ", advice)
    with path.open("rb") as file:
        identity = file_identity(file.fileno())
        mapped = MappedFile(
            FileRange(file.fileno(), 0, os.fstat(file.fileno()).st_size, identity, str(path)), guarded=False
        )
        mapped._lease.release()
        os.truncate(path, MIB)
        with pytest.raises(OSError, match="cut short"):
            mapped.populate(CancelToken(lambda: 0), lambda _: None)
        assert mapped.close() is not None


@linux
def test_a_system_without_the_advice_reads_the_file_instead(make: Make, monkeypatch):
    """Where the kernel lacks MADV_POPULATE_READ, every byte is read all the same."""
    monkeypatch.setattr(mapped_file, "POPULATE_READ", 9999)
    machine = make(placement=Placement.MAP)
    machine.load("m")
    assert read(machine) == wanted()


@linux
def test_cancelling_a_load_leaves_nothing_mapped(make: Make, path: Path, monkeypatch):
    """A cancelled load keeps no map, no lease and no bytes in the ledger."""
    monkeypatch.setattr(mapped_file, "_STEP_BYTES", MIB)
    machine, token = make(), CancelToken(lambda: 0)
    with pytest.raises(CancelledError):
        machine.memory.models.load(
            "m",
            None,
            token,
            lambda _completed, _total: token.cancel(),
            make_room=True,
            pin=None,
            keep_alive_ns=None,
        )
    assert mappings(path) == 0 and machine.manager.pressure.status("cpu").model_bytes == 0
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


@linux
def test_what_another_process_maps_too_did_not_come_back(make: Make, path: Path):
    """Bytes that another process still maps are freed here, but are not counted as returned."""
    text = (
        "import mmap, sys\n"
        f"file = open({str(path)!r}, 'rb')\n"
        "kept = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
        "bytes(kept[::4096]); print('mapped', flush=True); sys.stdin.read()\n"
    )
    machine = make()
    machine.load("m")
    with subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"mapped\n"
        unloaded = machine.memory.models.unload("m", UnloadMode.UNLOAD, machine.token())
        other.communicate()
    assert unloaded.freed_bytes >= sum(SIZES)
    assert unloaded.returned_bytes is not None and unloaded.returned_bytes <= 2 * mmap.PAGESIZE


@linux
def test_what_user_code_writes_reaches_neither_the_file_nor_a_signal(make: Make, path: Path):
    """A write through a view becomes a private page: the file stays as it was stored."""
    machine, stored = make(), path.read_bytes()
    machine.load("m")
    residence = machine.manager.models.get("m").residence
    assert residence is not None
    with cpu(machine).view(residence.handle, writable=False) as view:
        view[-5:] = b"12345"
        assert view[-5:] == b"12345"
    assert path.read_bytes() == stored


@linux
def test_what_outlives_its_model_reads_zeros_and_lets_the_file_go(make: Make, path: Path):
    """A view that is kept after the unload reads zeros and holds neither the file nor its lease."""
    machine = make()
    machine.load("m")
    residence = machine.manager.models.get("m").residence
    kept = cpu(machine).view(residence.handle, writable=False)
    assert kept is not None and any(kept[-100:])
    machine.memory.models.unload("m", UnloadMode.UNLOAD, machine.token())
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK))
    assert mappings(path) == 0 and not any(kept)
    kept.release()


@linux
def test_a_system_without_memory_to_give_way_changes_nothing_and_says_so(
    make: Make, path: Path, monkeypatch, capfd
):
    """Where the copy has no memory the map stays, the log says why, and it is tried again."""

    def refuse(length: int, address: int | None = None) -> int:
        raise OutOfMemoryError("no memory", requested_bytes=length)

    machine = make()
    machine.load("m")
    with pytest.raises(BlockingIOError):
        os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    with monkeypatch.context() as patched:
        patched.setattr(mapped_file, "map_anonymous", refuse)
        let_writers_in(machine)
    assert "can't be copied out of it: no memory" in capfd.readouterr().err
    assert mappings(path) == 1 and read(machine) == wanted()
    let_writers_in(machine)
    assert mappings(path) == 0 and read(machine) == wanted()
