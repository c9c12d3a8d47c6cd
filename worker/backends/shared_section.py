"""A named section that a host opens: memory of the page file, which no folder and no disk is needed for.

It lives as long as anything has it open, so a killed worker leaves nothing behind. Only programs in this user's
session that know the name can open it, and the name is random.
"""

import mmap
import os
import sys

from worker.backends.host_memory import address_of, fill_with_zeros, page_rounded
from worker.core.cancellation import CancelToken
from worker.core.errors import OutOfMemoryError, UnsupportedError

NOTE = "shared allocations are sections of the page file; what a free of one returns is unknown while a host may map it"


class SharedSection:
    """Zeros, all of them in memory from the first moment on, as a shared file's blocks are.

    Errors: OutOfMemoryError if the system has no memory for it, UnsupportedError where there are no sections.
    """

    touched = True

    def __init__(self, size_bytes: int, token: CancelToken) -> None:
        self.name = f"Local\\memory-worker-{os.urandom(16).hex()}"
        self.size_bytes = size_bytes
        self.actual_bytes = page_rounded(size_bytes)
        self._map = _mapped(self.name, size_bytes)
        self.address = address_of(self._map)
        try:
            fill_with_zeros(self.address, self.actual_bytes, token, fresh=True)
        except BaseException:
            self.close()
            raise

    @property
    def view(self) -> memoryview:
        """The bytes: nothing can cut them off."""
        return memoryview(self._map)

    def close(self) -> int | None:
        """Unmap it. None: whether a host still has it open, and so keeps its pages, is not to be seen."""
        try:
            self._map.close()
        except BufferError:  # a copy that was cut short still holds a view; its end unmaps
            del self._map
        return None


def _mapped(name: str, size_bytes: int) -> mmap.mmap:
    if sys.platform == "win32":
        try:
            return mmap.mmap(-1, size_bytes, tagname=name)
        except (OSError, OverflowError, MemoryError, ValueError) as error:
            message = f"the system refused a section of {size_bytes} bytes: {error}"
            raise OutOfMemoryError(message, requested_bytes=size_bytes) from error
    raise UnsupportedError("only Windows has sections")
