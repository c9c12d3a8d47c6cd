"""System calls that a machine may not have: its kernel is older, its sandbox forbids them, or its Python was built without."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NOT_HAD = frozenset({errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL})
"""What says so: a kernel ENOSYS, a sandbox that or EPERM, a file system EOPNOTSUPP, a call that does not know this way EINVAL."""


@contextmanager
def without_a_call() -> Iterator[None]:
    """Leave the block where it makes a call that is not to be had. Other errors pass."""
    try:
        yield
    except AttributeError:  # a Python that was built for older C libraries has no name for it
        return
    except OSError as error:
        if error.errno not in NOT_HAD:
            raise


def file_in_memory(name: str) -> int | None:
    """Return the descriptor of a new file that is in no folder; None where there are none such. OSError where none is left."""
    if sys.platform == "linux":
        with without_a_call():
            return os.memfd_create(name, os.MFD_CLOEXEC)
    return None
