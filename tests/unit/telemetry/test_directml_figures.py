"""The Windows sources of GPU figures: layouts against the published headers, calls against real method tables."""

import ctypes
import shutil
import subprocess
import types
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worker.backends.directml_adapters import join, visible_indices
from worker.telemetry import com, dxcore, dxgi, pdh
from worker.telemetry.com import Luid

LUID = Luid(0xD4C2, -1)

_COMPILER = "x86_64-w64-mingw32-gcc"
needs_compiler = pytest.mark.skipif(
    shutil.which(_COMPILER) is None, reason=f"{_COMPILER} is not on the path (package gcc-mingw-w64-x86-64)"
)


def compiled(source: str, folder: Path) -> bytes:
    """Compile C against the Windows headers; returns the object file."""
    output = folder / "layout.o"
    command = [_COMPILER, "-x", "c", "-Wall", "-Werror", "-c", "-o", str(output), "-"]
    done = subprocess.run(command, input=source, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return output.read_bytes()


def layout(structure: type[ctypes.Structure], name: str, fields: dict[str, str]) -> str:
    """Return C assertions that a structure is laid out as ours is."""
    lines = [f'_Static_assert(sizeof({name}) == {ctypes.sizeof(structure)}, "{name}");']
    for ours, theirs in fields.items():
        offset = getattr(structure, ours).offset
        lines.append(f'_Static_assert(offsetof({name}, {theirs}) == {offset}, "{name}.{theirs}");')
    return "\n".join(lines)


@needs_compiler
def test_dxgi_is_as_in_the_headers(tmp_path: Path) -> None:
    """Sizes, offsets, method slots and interface ids are those of dxgi1_4.h."""
    slots = {
        ("IDXGIFactory4Vtbl", "EnumAdapterByLuid"): dxgi.ENUM_ADAPTER_BY_LUID,
        ("IDXGIAdapter3Vtbl", "GetDesc1"): dxgi.GET_DESC1,
        ("IDXGIAdapter3Vtbl", "QueryVideoMemoryInfo"): dxgi.QUERY_VIDEO_MEMORY_INFO,
    }
    description = {
        "name": "Description",
        "vendor_id": "VendorId",
        "device_id": "DeviceId",
        "subsystem_id": "SubSysId",
        "revision": "Revision",
        "dedicated_video_memory": "DedicatedVideoMemory",
        "dedicated_system_memory": "DedicatedSystemMemory",
        "shared_system_memory": "SharedSystemMemory",
        "luid": "AdapterLuid",
        "flags": "Flags",
    }
    info = {
        "budget": "Budget",
        "usage": "CurrentUsage",
        "reservable": "AvailableForReservation",
        "reserved": "CurrentReservation",
    }
    source = "\n".join(
        [
            "#define CINTERFACE\n#define INITGUID\n#include <stddef.h>\n#include <windows.h>\n#include <dxgi1_4.h>",
            layout(dxgi.AdapterDescription, "DXGI_ADAPTER_DESC1", description),
            layout(dxgi.VideoMemoryInfo, "DXGI_QUERY_VIDEO_MEMORY_INFO", info),
            *(
                f'_Static_assert(offsetof({table}, {method}) == {slot} * sizeof(void *), "{method}");'
                for (table, method), slot in slots.items()
            ),
            '_Static_assert(DXGI_ADAPTER_FLAG_SOFTWARE == 2, "software");',
            '_Static_assert(DXGI_MEMORY_SEGMENT_GROUP_LOCAL == 0, "local");',
            "const IID *used[] = {&IID_IDXGIFactory4, &IID_IDXGIAdapter3};",
        ]
    )
    binary = compiled(source, tmp_path)
    for interface in (dxgi.IID_FACTORY4, dxgi.IID_ADAPTER3):
        assert uuid.UUID(interface).bytes_le in binary


@needs_compiler
def test_pdh_is_as_in_the_headers(tmp_path: Path) -> None:
    """Sizes, offsets and constants are those of pdh.h."""
    source = "\n".join(
        [
            "#include <stddef.h>\n#include <windows.h>\n#include <pdh.h>\n#include <pdhmsg.h>",
            layout(
                pdh.CounterValue, "PDH_FMT_COUNTERVALUE", {"status": "CStatus", "large_value": "largeValue"}
            ),
            layout(pdh.CounterItem, "PDH_FMT_COUNTERVALUE_ITEM_W", {"name": "szName", "value": "FmtValue"}),
            f'_Static_assert(PDH_FMT_LARGE == {pdh._FMT_LARGE}, "large");',
            f'_Static_assert((DWORD)PDH_MORE_DATA == {pdh._MORE_DATA}u, "more");',
            '_Static_assert(PDH_CSTATUS_VALID_DATA == 0 && PDH_CSTATUS_NEW_DATA == 1, "valid");',
        ]
    )
    compiled(source, tmp_path)


# ---- DXGI, through a method table of our own ----


class Stage:
    """COM objects with real method tables, whose methods are Python's."""

    def __init__(self) -> None:
        self.keep: list[Any] = []
        self.released = 0

    def make(self, slots: dict[int, tuple[Callable[..., int], tuple[Any, ...]]]) -> int:
        """Return an object's address; ``slots`` has each method and its argument types."""

        def release(_: int) -> int:
            self.released += 1
            return 0

        table = (ctypes.c_void_p * 32)()
        for slot, (method, types_) in {**slots, 2: (release, ())}.items():
            callback = com.function_type(ctypes.c_int32, ctypes.c_void_p, *types_)(method)
            self.keep.append(callback)
            table[slot] = ctypes.cast(callback, ctypes.c_void_p).value
        made = (ctypes.c_void_p * 1)(ctypes.addressof(table))
        self.keep += [table, made]
        return ctypes.addressof(made)


def dxgi_with(
    monkeypatch: pytest.MonkeyPatch, *, knows: Luid = LUID, memory: tuple[int, int] | None = (7, 5)
) -> Stage:
    """Put up a DXGI with one adapter, 2 bytes of it in the system's; ``memory`` None refuses to answer for it."""
    stage = Stage()

    def describe(_: int, out: int) -> int:
        found = dxgi.AdapterDescription.from_address(out)
        found.name[:8] = [ord(letter) for letter in "Radeon ™"]
        found.dedicated_video_memory, found.shared_system_memory, found.flags = 8 << 30, 3, 2
        return 0

    def query(_: int, node: int, segment: int, out: int) -> int:
        if memory is None or node != 0:
            return -2147467259
        found = dxgi.VideoMemoryInfo.from_address(out)
        found.budget, found.usage = memory if segment == 0 else (100, 2)
        return 0

    u32, pointer = ctypes.c_uint32, ctypes.c_void_p
    adapter = stage.make({10: (describe, (pointer,)), 14: (query, (u32, u32, pointer))})

    def by_luid(_: int, luid: int, interface: int, out: int) -> int:
        wanted = uuid.UUID("645967a4-1392-4310-a798-8053ce3e93fd").bytes_le
        if luid != ctypes.c_uint64.from_buffer_copy(knows).value or ctypes.string_at(interface, 16) != wanted:
            return -2005270526  # DXGI_ERROR_NOT_FOUND
        ctypes.c_void_p.from_address(out).value = adapter
        return 0

    factory = stage.make({26: (by_luid, (ctypes.c_uint64, pointer, pointer))})

    def create(_: int, out: int) -> int:
        ctypes.c_void_p.from_address(out).value = factory
        return 0

    exported = com.function_type(ctypes.c_int32, pointer, pointer)(create)
    library = types.SimpleNamespace(
        CreateDXGIFactory1=exported, keep=stage
    )  # its methods live as long as it does
    monkeypatch.setattr(com, "load_library", lambda _: library)
    return stage


def test_dxgi_by_luid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter of a LUID is described, its grant read, and everything that was taken is released."""
    stage = dxgi_with(monkeypatch)
    assert dxgi.video_memory(LUID) == dxgi.VideoMemory("Radeon ™", 8 << 30, 3, True, 7, 5, 2)
    assert stage.released == 2


def test_dxgi_without_a_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an adapter does not answer is null, and what it does stays."""
    dxgi_with(monkeypatch, memory=None)
    found = dxgi.video_memory(LUID)
    assert (found.dedicated_bytes, found.budget_bytes, found.usage_bytes) == (8 << 30, None, None)
    assert found.non_local_bytes is None


def test_dxgi_of_another_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A LUID that it does not know is an error with its HRESULT."""
    stage = dxgi_with(monkeypatch, knows=Luid(1, 0))
    with pytest.raises(com.ComError, match="0x887A0002"):
        dxgi.video_memory(LUID)
    assert stage.released == 1


def test_library_that_is_not_there() -> None:
    """A system without DXGI or DXCore says so with an OSError, which callers expect."""
    with pytest.raises(OSError, match="no-such-library"):
        dxgi.video_memory(LUID, "no-such-library.so")
    with pytest.raises(OSError, match="no-such-library"):
        dxcore.compute_adapters("no-such-library.so")


# ---- PDH ----


@pytest.mark.parametrize(
    ("instance", "whose"),
    [
        ("luid_0xFFFFFFFF_0x0000D4C2_phys_0", (None,)),
        ("luid_0xffffffff_0x0000d4c2_phys_1", (None,)),
        ("luid_0x00000000_0x0000D4C2_phys_0", None),
        ("luid_0xFFFFFFFF_0x0000D4C3_phys_0", None),
        ("pid_42_luid_0xFFFFFFFF_0x0000D4C2_phys_0", (42,)),
        ("pid_420_luid_0xFFFFFFFF_0x0000D4C2_phys_0", (420,)),
        ("pid_42_luid_0xFFFFFFFF_0x0000D4C2_phys_0_eng_0_engtype_3D", None),
    ],
)
def test_instances(instance: str, whose: tuple[int | None] | None) -> None:
    """An instance is told by all of its LUID and its process; those of engines are others."""
    assert pdh.pid_of(instance, LUID) == whose


class Counters:
    """A PDH with instances that change between two questions, as processes come and go."""

    def __init__(self, *answers: dict[str, int]) -> None:
        self.answers = list(answers)
        self.closed = self.collected = 0
        pointer, u32 = ctypes.c_void_p, ctypes.c_uint32
        self.keep: list[Any] = []
        kind = ctypes.CFUNCTYPE
        self.PdhOpenQueryW = kind(u32, pointer, ctypes.c_size_t, pointer)(lambda *_: 0)
        self.PdhAddEnglishCounterW = kind(u32, pointer, ctypes.c_wchar_p, ctypes.c_size_t, pointer)(
            lambda *_: 0
        )
        self.PdhCollectQueryData = kind(u32, pointer)(self._collect)
        self.PdhCloseQuery = kind(u32, pointer)(self._close)
        self.PdhGetFormattedCounterArrayW = kind(u32, pointer, u32, pointer, pointer, pointer)(self._answer)

    def _collect(self, _: int) -> int:
        self.collected += 1
        return 0

    def _close(self, _: int) -> int:
        self.closed += 1
        return 0

    def _answer(self, _: int, form: int, size: int, count: int, out: int | None) -> int:
        assert form == 0x400
        now = self.answers[0]
        needed = ctypes.sizeof(pdh.CounterItem) * len(now)
        have = ctypes.c_uint32.from_address(size)
        if out is None or have.value < needed:
            have.value = needed
            self.answers = self.answers[1:] or self.answers
            return 0x800007D2
        ctypes.c_uint32.from_address(count).value = len(now)
        items = (pdh.CounterItem * len(now)).from_address(out)
        for item, (name, value) in zip(items, now.items(), strict=True):
            text = ctypes.create_unicode_buffer(name)
            self.keep.append(text)
            item.name = ctypes.addressof(text)
            item.value.large_value, item.value.status = value, 0 if value >= 0 else 0xC0000BC6
        return 0


def test_counters() -> None:
    """All instances are read, also when there are more than at first; what has no valid value is left out."""
    first = {"luid_0xFFFFFFFF_0x0000D4C2_phys_0": 1}
    more = {**first, "luid_0xFFFFFFFF_0x0000D4C2_phys_1": 2**40, "luid_0x00000000_0x00000001_phys_0": -1}
    counters = Counters(first, more)
    (read,) = pdh.read_counters((pdh.ADAPTER_DEDICATED,), counters)
    assert read == [item for item in more.items() if item[1] >= 0]
    assert counters.closed == 1


def test_what_a_process_holds_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own memory and the system's are of one question, and so of one moment."""
    instance = "pid_7_luid_0xFFFFFFFF_0x0000D4C2_phys_0"
    counters = Counters({instance: 5})
    monkeypatch.setattr(pdh, "load_library", lambda _: counters)
    assert pdh.process_held_bytes(LUID, 7) == (5, 5)
    assert (counters.collected, counters.closed) == (1, 1)
    assert pdh.process_held_bytes(LUID, 8) == (None, None)


def test_no_counters_here() -> None:
    """Where there is no PDH the figure is null."""
    if ctypes.sizeof(ctypes.c_wchar) == 2:
        pytest.skip("this is Windows: it has PDH")
    assert pdh.adapter_used_bytes(LUID) is None


# ---- which adapter is which ----


class Named:
    """An adapter, as far as joining looks at it."""

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.mark.parametrize(
    ("value", "visible"),
    [
        (None, None),
        ("", None),
        ("0", None),
        ("x,", None),
        ("1,", {1}),
        ("0,2", {0}),
        ("2, 0,", {0, 2}),
        ("--1,²,-1,", {-1}),
    ],
)
def test_visible_devices(value: str | None, visible: set[int] | None) -> None:
    """An item counts only with a comma behind it, as the library has it."""
    assert visible_indices({} if value is None else {"DML_VISIBLE_DEVICES": value}) == visible


def joined(names: str, theirs: str, visible: str = "") -> str:
    """Join adapters named by a letter to the library's; ``-`` for one that can't be told."""
    adapters: Any = tuple(Named(letter) for letter in names)
    found = join(adapters, len(theirs), lambda index: theirs[index], {"DML_VISIBLE_DEVICES": visible})
    return "".join("-" if each is None else each.name for each in found)


def test_join() -> None:
    """The order is DXCore's while all are visible, else the names decide, and what is uncertain stays unknown."""
    assert joined("abc", "abc") == "abc"
    assert joined("aab", "aab") == "aab"
    assert joined("abc", "b", "1,") == "b"
    assert joined("abc", "ca", "0,2,") == "ca"
    assert joined("aab", "aa", "0,1,") == "--"
    assert joined("abc", "ab") == "--"
    assert joined("abc", "cx", "0,2,") == "c-"
    assert joined("", "") == ""
