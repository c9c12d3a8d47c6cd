"""System calls that a machine may not have: its kernel is older, its sandbox forbids them, or its Python was built without."""

import errno
import os
import sys

NOT_HAD = frozenset({errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL})
"""What says so: a kernel ENOSYS, a sandbox that or EPERM, a file system EOPNOTSUPP, a call that does not know this way EINVAL."""


class WithoutCall:
    """A block that is left where it makes a call that is not to be had. Other errors pass."""

    def __enter__(self) -> None:
        """Begin it."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        """Leave it. AttributeError: a Python that was built for older C libraries has no name for the call."""
        return isinstance(error, AttributeError) or (isinstance(error, OSError) and error.errno in NOT_HAD)


def file_in_memory(name: str) -> int | None:
    """Return the descriptor of a new file that is in no folder; None where there are none such. OSError where none is left."""
    if sys.platform == "linux":
        with WithoutCall():
            return os.memfd_create(name, os.MFD_CLOEXEC)
    return None
