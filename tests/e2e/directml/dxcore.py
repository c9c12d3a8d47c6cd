"""Ask DXCore, in a process of its own, for every adapter before and after sorting: prints JSON.

``python dxcore.py PID``: how much that process holds is asked too.
"""

import ctypes
import json
import sys
import uuid
from ctypes import c_bool, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

ADAPTERS_FOR_COMPUTE = uuid.UUID("248e2800-a793-4724-abaa-23a6de1be090").bytes_le
LUID, DESCRIPTION, DEDICATED, IS_HARDWARE, IS_INTEGRATED = 0, 2, 7, 11, 12
HIGH_PERFORMANCE = 2


def call(this: c_void_p, slot: int, result: Any, *arguments: Any) -> Any:
    """Call a COM method; Python numbers are passed as 32 bits."""
    table = ctypes.cast(ctypes.cast(this, ctypes.POINTER(c_void_p))[0], ctypes.POINTER(c_void_p))
    values = [c_uint32(one) if isinstance(one, int) else one for one in arguments]
    kinds = [c_void_p if isinstance(one, bytes | ctypes.Array) else type(one) for one in values]
    return ctypes.CFUNCTYPE(result, c_void_p, *kinds)(table[slot])(this, *values)


def made(this: c_void_p, slot: int, *arguments: Any) -> c_void_p:
    """Call a COM method that makes an object."""
    out = (c_void_p * 1)()
    assert call(this, slot, c_int32, *arguments, bytes(16), out) == 0
    return c_void_p(out[0])


def property_of(adapter: c_void_p, number: int) -> bytes:
    """Return a property's bytes."""
    size = (c_size_t * 1)()
    assert call(adapter, 7, c_int32, number, size) == 0
    value = (ctypes.c_ubyte * size[0])()
    assert call(adapter, 6, c_int32, number, c_size_t(size[0]), value) == 0
    return bytes(value)


def state_of(adapter: c_void_p, number: int, asked: list[int], numbers: int) -> list[int] | None:
    """Return the 64-bit numbers of a live figure; None where this DXCore has it not."""
    if not call(adapter, 8, c_bool, number):
        return None
    question, answer = (c_uint32 * len(asked))(*asked), (c_uint64 * numbers)()
    sizes = [c_size_t(ctypes.sizeof(one)) for one in (question, answer)]
    assert call(adapter, 9, c_int32, number, sizes[0], question, sizes[1], answer) == 0
    return list(answer)


def describe(adapter: c_void_p, pid: int) -> dict[str, Any]:
    """Return all that a device's probe would ask."""
    return {
        "name": property_of(adapter, DESCRIPTION).rstrip(b"\0").decode(),
        "luid": int.from_bytes(property_of(adapter, LUID), "little"),
        "dedicated_bytes": int.from_bytes(property_of(adapter, DEDICATED), "little"),
        "is_hardware": property_of(adapter, IS_HARDWARE) == b"\1",
        "is_integrated": property_of(adapter, IS_INTEGRATED) == b"\1",
        "budget": state_of(adapter, 1, [0, 0], 4),
        "adapter_usage": state_of(adapter, 2, [0, 0], 2),
        "process_usage": state_of(adapter, 3, [0, 0, pid], 3),
    }


def main() -> None:
    """Print a list of adapters as they come, and one sorted as torch_directml sorts it."""
    out = c_void_p()
    assert ctypes.CDLL("libdxcore.so").DXCoreCreateAdapterFactory(bytes(16), ctypes.byref(out)) == 0
    adapters = made(out, 3, 1, ADAPTERS_FOR_COMPUTE)
    lists = []
    for sort in (False, True):
        if sort:
            assert call(adapters, 7, c_int32, 1, (c_uint32 * 1)(HIGH_PERFORMANCE)) == 0
        found = [made(adapters, 3, index) for index in range(call(adapters, 4, c_uint32))]
        lists.append([describe(adapter, int(sys.argv[1])) for adapter in found])
    print(json.dumps(lists))  # noqa: T201 - a test reads it


if __name__ == "__main__":
    main()
