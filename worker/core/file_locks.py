"""Locks of files, by which one worker knows that another lives: the system gives them up when their process ends."""

import errno
import sys

_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}


def lock_file(descriptor: int) -> None:
    """Take a file's lock. BlockingIOError if another has it; OSError, in words, where its file system has no locks."""
    try:
        _lock(descriptor)
    except OSError as error:
        if error.errno in _HELD:
            raise BlockingIOError(error.errno, "another process has its lock") from error
        text = f"its file system has no locks, by which workers keep apart ({error.strerror}): name a place on another"
        raise OSError(error.errno, text) from error


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415 - exists on Windows only

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl  # noqa: PLC0415 - does not exist on Windows

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
