"""Which pages of this process are in memory, as Windows tells it. Imported on Windows alone."""

import ctypes
from array import array
from typing import Any

_kernel32: Any = ctypes.CDLL("kernel32", use_last_error=True)
_kernel32.GetCurrentProcess.restype = ctypes.c_void_p
_kernel32.K32QueryWorkingSetEx.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)

_ENTRY_BYTES = 16
"""PSAPI_WORKING_SET_EX_INFORMATION: an address, and 64 bits of which the lowest says that the page is there."""
_PAGES_AT_ONCE = 2**16
_ODD = bytes(byte & 1 for byte in range(256))


def resident_pages(address: int, pages: int, page_bytes: int) -> int | None:
    """Count the pages that are in this process's working set; None where the system can't say."""
    present = 0
    for first in range(0, pages, _PAGES_AT_ONCE):
        count = min(_PAGES_AT_ONCE, pages - first)
        start = address + first * page_bytes
        entries = array("Q", bytes(_ENTRY_BYTES * count))
        entries[0::2] = array("Q", range(start, start + count * page_bytes, page_bytes))
        where, _ = entries.buffer_info()
        process = _kernel32.GetCurrentProcess()
        if not _kernel32.K32QueryWorkingSetEx(process, where, _ENTRY_BYTES * count):
            return None
        present += entries.tobytes()[8::_ENTRY_BYTES].translate(_ODD).count(1)
    return present
