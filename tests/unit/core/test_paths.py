"""What the system has against a file, in words that tell what to do."""

import errno
import os
import re
from pathlib import Path

import pytest

from worker.core.paths import exists, resolved, said_of


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


def test_links_are_followed_as_far_as_there_is_something(tmp_path: Path) -> None:
    """What is not there yet is no error, links that go round are, wherever they stand, on every version of Python."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "there").symlink_to(tmp_path / "back")
    (tmp_path / "back").symlink_to(tmp_path / "there")
    root = tmp_path.resolve()
    assert resolved(tmp_path / "link" / "not" / "yet") == root / "real" / "not" / "yet"
    assert resolved(tmp_path / "link" / ".." / "x") == root / "x"
    for path in ("loop", "loop/x", "there/x"):
        with pytest.raises(OSError, match="links|resolved"):
            resolved(tmp_path / path)
    with pytest.raises(ValueError, match="null"):
        resolved(tmp_path / "a\0b")


def test_whether_a_path_leads_to_something(tmp_path: Path) -> None:
    """No is the answer where nothing is there, and no other reason."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert exists(tmp_path / "file")
    assert [exists(tmp_path / path) for path in ("none", "file/below", "link")] == [False, False, False]
    for path in ("loop", "w" * 300):
        with pytest.raises(OSError, match="links|name too long|resolved"):
            exists(tmp_path / path)
