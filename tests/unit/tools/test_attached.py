"""Which worker is meant where none is named."""

import socket
import sys
from pathlib import Path

import pytest

from worker.export.socket_path import default_path
from worker.tools.attached import SourceError, only_socket

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Python on Windows has no local sockets")


def test_it_is_the_only_one_that_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker that was killed left is none; of several their processes are told."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    first, killed, second = (default_path(pid) for pid in (11, 12, 13))
    first.parent.mkdir()
    assert only_socket() is None
    _listening(killed).close()
    assert killed.is_socket()
    assert only_socket() is None
    with _listening(first):
        assert only_socket() == first
        with _listening(second), pytest.raises(SourceError, match=r"\(11, 13\).*--attach"):
            only_socket()


def _listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    return listener
