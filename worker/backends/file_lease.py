"""A lease on a file: whoever would write to it or cut it short is made to wait until it is given up.

Linux grants one to the file's owner (or to a process with CAP_LEASE) while no process has the file open for
writing. It holds them off for as long as /proc/sys/fs/lease-break-time says, 45 s by default.
"""

import contextlib
import signal
import sys

if sys.platform == "linux":
    import fcntl

_F_SETSIG = 10
"""From linux/fcntl.h; Python has the name for it only from 3.12 on."""


class FileLease:
    """A lease on an open file. It goes with the last copy of the descriptor, at the latest."""

    def __init__(self, descriptor: int) -> None:
        """Take it. OSError where the system grants none; the file is then as it was."""
        self._descriptor = descriptor
        if sys.platform == "linux":
            # The default, SIGIO, would end the process; this one is ignored. Asking is enough for us.
            fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGURG)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        else:
            raise OSError("this system has no leases on files")

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for it to be given up."""
        if sys.platform == "linux":
            return fcntl.fcntl(self._descriptor, fcntl.F_GETLEASE) != fcntl.F_RDLCK
        else:  # noqa: RET505 - what only Linux has the type checker reads only there
            return False

    def release(self) -> None:
        """Give it up: whoever waits goes on. Idempotent."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # the system took it away, for the writer waited too long
                fcntl.fcntl(self._descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
