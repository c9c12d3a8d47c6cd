"""Shared memory as a .NET host has it: allocated, mapped and freed in one call, in every shape that .NET asks for."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.csharp.host import CLIENT, REPOSITORY, Make, fake, real, run_probe, sent, wait
from tests.rigs.dotnet.toolchain import Toolchain
from worker.loaders.dtypes import ITEM_BYTES

__all__ = ["fake", "real"]

MIB = 2**20


@pytest.fixture(scope="module")
def seen(toolchain: Toolchain) -> dict[str, Any]:
    """Run the probe once and return what it saw."""
    return run_probe(toolchain, "SharedProbe", sys.executable, str(REPOSITORY))


def test_one_memory_whichever_way_it_is_reached(seen: dict[str, Any]) -> None:
    """Zero at first; what is written by span, memory, slice or stream is what the worker copies, and back."""
    assert seen["fresh_is_zero"]
    assert (seen["stream_length"], seen["stream_end"], seen["as_owner"]) == (12 * MIB, 0, 12 * MIB)
    assert (seen["worker_sees_it"], seen["slice"], seen["comes_back"]) == (True, True, True)


def test_prefaulting_changes_no_byte(seen: dict[str, Any]) -> None:
    """Pages are touched beside whoever writes them, and no write is lost."""
    assert seen["prefault_loses_nothing"]


def test_a_tensor_has_a_type_and_a_shape(seen: dict[str, Any]) -> None:
    """Rows lie in C order; what does not fit, is unknown, or of another size is refused with a type that says so."""
    shown = {"DType": "F32", "Shape": [2, 3, 4], "Length": 24, "SizeBytes": 96}
    assert seen["tensor"] == {**shown, "last": 1.5, "row": 2.5, "under": 12}
    assert (seen["scalar"], seen["empty"], seen["named"]) == (1, 0, "BF16")
    size, outside = 12 * MIB, "ArgumentOutOfRangeException"
    assert [one.replace("'", "").partition(" (Parameter")[0] for one in seen["refused"]] == [
        f"{outside}: [{size}] of F32 takes {4 * size} bytes, and the buffer has {size} from offset 0 on",
        "ArgumentException: [-1] is no shape: a dimension is negative, or all of them are more than memory can have",
        f"ArgumentException: [{2**63 - 1}, 3] is no shape: a dimension is negative, or all of them are more than memory can have",
        "ArgumentException: BF16 has 2 bytes, and Single has 4",
        seen["refused"][4].replace("'", "").partition(" (Parameter")[0],
        "ArgumentException: Guid has no dtype of its own; name one of its size, such as BF16 for UInt16",
        f"{outside}: offset 2 is not a multiple of 4, the size of Single",
        f"{outside}: [2, 0, 0] lies outside of [2, 3, 4]",
        f"{outside}: 2 places were given, and [2, 3, 4] has 3 dimensions",
        f"{outside}: 2 bytes from offset {size - 1} on are more than the buffers {size}",
        seen["refused"][10].replace("'", "").partition(" (Parameter")[0],
        f"{outside}: offset 4 is not a multiple of 8, the size of Int64",
    ]
    assert seen["refused"][4].startswith("ArgumentException: 'F33' is no dtype; there are F64, F32, ")
    assert seen["refused"][10].startswith(outside)


def test_disposed_of(seen: dict[str, Any]) -> None:
    """It is freed once, and whatever is left of it throws instead of touching memory that is gone; a pin keeps it."""
    assert seen["freed"] == 12 * MIB
    assert [one.partition(":")[0] for one in seen["afterwards"]] == ["ObjectDisposedException"] * 5
    assert seen["kept_by_a_pin"]


def test_what_cannot_be_mapped_is_not_kept(seen: dict[str, Any]) -> None:
    """The worker refuses it, or it is freed again."""
    assert seen["unmappable"] == "WorkerRequestException"
    assert seen["nothing_kept"] == 0


def test_why_there_is_no_map_is_told_whatever_becomes_of_freeing_it(fake: Make, tmp_path: Path) -> None:
    """The worker dies of being asked to free what could not be mapped: the caller hears of the map."""
    import System
    from MemoryWorker.Client import ServiceMemory, SharedBuffer

    shared = {"kind": "file", "path": str(tmp_path / "nowhere"), "size_bytes": 64}
    made = {
        "allocation_id": "a",
        "device_id": "cpu",
        "memory_type": "shared",
        "size_bytes": 64,
        "actual_bytes": 64,
        "shared_memory": shared,
        "available_bytes": None,
        "models_unloaded": [],
    }
    answers, journal = tmp_path / "answers", tmp_path / "journal"
    answers.write_text(json.dumps({"memory.allocate": made}))
    service = fake("--answers", str(answers), "--journal", str(journal), "--die-on", "memory.deallocate")
    with pytest.raises(System.IO.FileNotFoundException):
        wait(SharedBuffer.AllocateAsync(ServiceMemory(service), 64))
    assert sent(journal, "memory.deallocate") == 1


def test_it_frees_nothing_of_another_worker(seen: dict[str, Any]) -> None:
    """Its worker died, and the next one has memory of somebody else's: disposal leaves that alone."""
    assert seen["ids_are_another_workers"]
    assert seen["anothers_stays"] == 4096


def test_every_dtype_of_the_worker(load: Any, real: Make) -> None:
    """A tensor can have each type that weights come in, in a .NET type of its size."""
    load(CLIENT)
    from MemoryWorker.Client import ServiceMemory, SharedBuffer
    from System import Array, Byte, Int32, Int64, UInt16
    from System.Numerics import Complex

    kinds = {1: Byte, 2: UInt16, 4: Int32, 8: Int64, 16: Complex}
    buffer = wait(SharedBuffer.AllocateAsync(ServiceMemory(real()), 64))
    for dtype, size in ITEM_BYTES.items():
        made = buffer.AsTensor[kinds[size]](Array[Int64]([2, 2]), dtype, 0)
        assert (made.DType, made.SizeBytes) == (dtype, 4 * size)
    wait(buffer.DisposeAsync())


def test_a_section_is_opened_only_where_there_are_sections(load: Any) -> None:
    """Elsewhere the error says what it is."""
    load(CLIENT)
    import System
    from MemoryWorker.Client import SharedAllocation

    protocol = importlib.import_module("MemoryWorker.Client.Protocol")
    shared = protocol.SharedMemory()
    shared.Path, shared.Kind = "Local\\section", protocol.SharedMemoryKind.Section
    if sys.platform != "win32":
        with pytest.raises(System.PlatformNotSupportedException, match="only Windows has them"):
            SharedAllocation.Open(shared)
