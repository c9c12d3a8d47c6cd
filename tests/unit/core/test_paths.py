"""What the system has against a file, in words that tell what to do."""

import errno
import os
import re

import pytest

from worker.core.paths import said_of


@pytest.mark.parametrize(
    ("code", "doing", "said"),
    [
        (errno.ENOENT, "read", "there is no such file"),
        (errno.ENOENT, "written", "its folder is not there"),
        (errno.EACCES, "run", "may not be run by the user that the worker runs as"),
        (errno.ENOEXEC, "run", "it is no program that this system can run"),
        (errno.EMFILE, "run", "no more files can be open just now; try again"),
        (errno.EAGAIN, "run", "the system is short of threads just now; try again"),
        (errno.ENOMEM, "run", "the system is short of memory just now; try again"),
        (errno.EIO, "read", "it can't be read: .*; see to its disk, or share"),
    ],
)
def test_each_error_of_the_systems_says_what_to_do(code: int, doing: str, said: str) -> None:
    """A shortage is no fault of the file's; and Windows has words of its own for what is the same."""
    ours = OSError(code, os.strerror(code))
    windows = OSError(code, "Zugriff verweigert")
    windows.winerror = 5
    for error in (ours, windows):
        assert re.search(said, said_of(error, doing))


def test_who_raised_it_may_have_said_it_better() -> None:
    """Words that are none of the system's stand."""
    assert said_of(OSError("it is another's")) == "it is another's"
    assert said_of(OSError(errno.EACCES, "it is another's")) == "it is another's"
