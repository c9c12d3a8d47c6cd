"""The live view in a real terminal: it attaches, shows, follows the window's size, and leaves no trace."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.process import MIB, PATIENCE_SECONDS, ROOT, worker

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")


_TAKING_THE_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    " signal.signal(signal.SIGINT, signal.SIG_IGN);"
    " os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
"""Whoever has the terminal gets its Ctrl-C, and may have been started to ignore it, as a script's background jobs are."""

_SCREEN_OF_BEFORE = "\x1b[?1049l"


class Terminal:
    """A view at the other end of a pseudo-terminal."""

    def __init__(self, *arguments: str, columns: int = 80, lines: int = 24) -> None:
        self.controller, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (lines, columns))
        self.before = termios.tcgetattr(terminal)
        self._terminal = terminal
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKING_THE_TERMINAL, "-m", "worker", "top", "--seconds", "0.1", *arguments],
            stdin=terminal, stdout=terminal, stderr=terminal, cwd=ROOT, start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1"},
        )  # fmt: skip
        self.written = ""

    def until(self, text: str) -> str:
        """Read until something was written. Returns all that was written since the last call, in plain text."""
        self._read_until(lambda: text in plain(self.written), text)
        read, self.written = plain(self.written), ""
        return read

    def _read_until(self, found: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not found():
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.controller], [], [], max(0, left))
            assert ready, f"no {what!r} in {self.written!r}"
            self.written += os.read(self.controller, 1 << 16).decode(errors="replace")

    def press(self, key: bytes) -> None:
        """Press a key."""
        os.write(self.controller, key)

    def resize(self, columns: int, lines: int) -> None:
        """Drag the window's corner."""
        termios.tcsetwinsize(self.controller, (lines, columns))

    def leave(self) -> None:
        """Wait for its end, reading as a terminal does, and see that the terminal is as it was: its screen, too."""
        self._read_until(lambda: _SCREEN_OF_BEFORE in self.written, _SCREEN_OF_BEFORE)
        assert self.process.wait(PATIENCE_SECONDS) == 0
        assert termios.tcgetattr(self._terminal) == self.before

    def close(self) -> None:
        """Let go."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._terminal)
        os.close(self.controller)


def plain(text: str) -> str:
    """Leave out what moves the cursor and colours."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


@pytest.mark.parametrize("way_out", [b"q", b"\x03", signal.SIGTERM])
def test_it_attaches_shows_and_quits_cleanly(tmp_path: Path, way_out: bytes | signal.Signals) -> None:
    """What the worker has is on the screen; the worker goes on when the view has gone."""
    path = tmp_path / "w.sock"
    with worker("--monitor-socket", str(path), "--simulated-device", "64MiB") as served:
        served.call("memory.allocate", {"size_bytes": 33 * MIB, "owner": "kv-cache"})
        view = Terminal("--attach", str(path))
        try:
            shown = view.until("33.0 MiB")
            assert f"process {served.pid}" in shown
            assert "kv-cache" in view.until("kv-cache")
            served.call("memory.allocate", {"size_bytes": 29 * MIB, "owner": "late-comer"})
            view.until("critical")
            view.resize(132, 40)
            view.until("late-comer")
            if isinstance(way_out, bytes):
                view.press(way_out)
            else:
                view.process.send_signal(way_out)
            view.leave()
        finally:
            view.close()
        assert served.call("worker.ping")


def test_the_view_of_a_worker_that_ends_stays_and_says_so(tmp_path: Path) -> None:
    """The last figures are still there to be read."""
    path = tmp_path / "w.sock"
    with worker("--monitor-socket", str(path)) as served:
        view = Terminal("--attach", str(path))
        try:
            view.until("q quit")
            served.close_input()
            assert served.exit_code() == 0
            view.until("ENDED")
            view.press(b"q")
            view.leave()
        finally:
            view.close()


def test_it_starts_a_worker_and_ends_it() -> None:
    """With the options after the dashes, and nothing of it is left."""
    view = Terminal("--", "--simulated-device", "48MiB")
    try:
        shown = view.until("48.0 MiB")
        found = re.search(r"process (\d+)", shown)
        assert found is not None
        view.press(b"q")
        view.leave()
        assert not Path(f"/proc/{found[1]}").exists()
    finally:
        view.close()


def test_once_without_a_terminal(tmp_path: Path) -> None:
    """One screen of text, from a socket or a record, for pipes and files."""
    path, record = tmp_path / "w.sock", tmp_path / "r.jsonl"
    with worker("--monitor-socket", str(path), "--record", str(record)) as served:
        served.call("memory.allocate", {"size_bytes": 3 * MIB, "owner": "kv"})
        assert "kv" in _once("--attach", str(path)).stdout
        served.close_input()
        assert served.exit_code() == 0
    done = _once("--record", str(record))
    assert "3.0 MiB" in done.stdout
    assert "ENDED" in done.stdout
    assert done.returncode == 0


def test_without_a_name_it_shows_the_worker_that_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever types ``top`` beside a worker wants that one, and one of its own only with dashes, or where there is none."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with worker("--monitor-socket", "--simulated-device", "48MiB") as served:
        served.call("worker.ping")
        assert f"process {served.pid}" in _once().stdout
        assert "sim:0" not in _once("--").stdout
    own = _once()
    assert f"process {served.pid}" not in own.stdout
    assert own.returncode == 0


def test_what_cannot_be_attached_to_is_said(tmp_path: Path) -> None:
    """One line, with what to do."""
    done = _once("--attach", str(tmp_path / "none"))
    assert done.returncode == 2
    assert "--monitor-socket" in done.stderr
    done = _once("--", "--default-device", "cuda:9")
    assert done.returncode == 2
    assert "cuda:9" in done.stderr


def _once(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "worker", "top", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1", "COLUMNS": "80", "LINES": "24"},
    )  # fmt: skip
