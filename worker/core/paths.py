"""Paths as other users and readers meet them: what the system has against one, names that are no UTF-8, private folders."""

import errno
import os
import stat
import sys
from pathlib import Path

from worker.core.shortages import shortage

_MAY_NOT = "it may not be {} by the user that the worker runs as: change its permissions, or its folder's"
_NOT_OPENED = {
    errno.ENOENT: "there is no such file: correct its path, or put it there",
    errno.ENOTDIR: "its path leads through something that is no folder: correct it",
    errno.EISDIR: "it is a folder: name a file",
    errno.EACCES: _MAY_NOT,
    errno.EPERM: _MAY_NOT,
    errno.EROFS: "it is on a disk that can't be written: name another place",
    errno.ENXIO: "it is a socket, or a device that is not there: name a file",
    errno.ELOOP: "its path has a link that leads round in a circle: name the file itself",
    errno.ENOEXEC: "it is no program that this system can run: name another",
    errno.ENAMETOOLONG: "its path is longer than the system takes: correct it, or move the file",
}
"""What the system has against opening a file, and what to do."""
_CANT_RESOLVE = 1921
"""Windows' own for links that go round: ERROR_CANT_RESOLVE_FILENAME."""


def shown(path: Path) -> str:
    r"""Return a path as text that any writer takes: bytes that are no UTF-8 as ``\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """Return text that any writer takes: what stands in it for bytes that are no UTF-8 is spelled out."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a pair, which stands for no byte
        return text.encode("utf-8", "backslashreplace").decode()


def said_of(error: OSError, doing: str = "read") -> str:
    """Say what the system, or who raised it, has against a file that is read, ``written`` or ``run``, and what to do.

    The file itself is the sentence's subject, which its caller names.
    """
    if error.errno == errno.ENOENT and doing == "written":
        return "its folder is not there: create it, or correct the path"
    by_windows = getattr(error, "winerror", None) is not None  # which has words of its own for the same
    own_words = error.errno is None or (not by_windows and error.strerror != os.strerror(error.errno))
    if own_words:
        return error.strerror or str(error)
    short = shortage(error)
    if short is not None:
        return short.message
    said = _NOT_OPENED.get(error.errno or 0, f"it can't be {{}}: {error.strerror}; see to its disk, or share")
    return said.format(doing)


def exists(path: Path) -> bool:
    """Tell whether a path leads to something. OSError where that can't be told, of which ``Path.exists`` says no from Python 3.14 on."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def resolved(path: Path) -> Path:
    """Follow all links, as far as there is something. OSError for links that go round; ValueError for a character that no path has.

    ``Path.resolve`` raises something else for such links before Python 3.13, and nothing from then on.
    """
    try:
        return Path(os.path.realpath(path, strict=True))
    except OSError as error:
        if error.errno == errno.ELOOP or getattr(error, "winerror", None) == _CANT_RESOLVE:
            raise
    return Path(os.path.realpath(path))


def make_folder(folder: Path) -> str | None:
    """Make a folder that nobody else may enter, with those above it. Returns what is against it, and what to do; None for nothing."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        return "it is no folder: name one"
    except OSError as error:
        return said_of(error, "written")
    return None


def make_private(folder: Path) -> None:
    """Make a folder that only its owner may enter. OSError if it is there and is anybody else's, or open."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if not is_private(folder):
        raise PermissionError(f"{shown(folder)} is not a folder of yours that nobody else may enter")


def is_private(folder: Path) -> bool:
    """Tell whether a folder is this user's, and no other user may enter it. OSError if it is not there."""
    found = folder.lstat()
    if sys.platform == "win32":  # the user's own temp folder lets no other user in
        return True
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
