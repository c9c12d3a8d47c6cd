"""One heap for all threads: glibc gives each of them its own, and what they free there is not given back."""

import ctypes
import sys
from contextlib import suppress

_M_ARENA_MAX = -8
"""As malloc.h has it. Threads take turns all the same: Python's lock."""


def use_one_heap() -> None:
    """Have threads that are started from here on use the first one's heap. Nothing where the C library has no say."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
