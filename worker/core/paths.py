"""Paths as other users and readers meet them: folders that only their owner enters, names that are no UTF-8."""

import os
import stat
import sys
from pathlib import Path


def shown(path: Path) -> str:
    r"""Return a path as text that any writer takes: bytes that are no UTF-8 as ``\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """Return text that any writer takes: what stands in it for bytes that are no UTF-8 is spelled out."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a pair, which stands for no byte
        return text.encode("utf-8", "backslashreplace").decode()


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
