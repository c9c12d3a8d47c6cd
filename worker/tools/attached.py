"""A worker that runs already, at the other end of its ``--monitor-socket``: asked questions, and told of events."""

import errno
import itertools
import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.core.paths import said_of
from worker.export.socket_path import default_path

_PATIENCE_SECONDS = 10.0


class SourceError(Exception):
    """Nothing can be shown; the message says why."""


class AttachedWorker:
    """One connection. ``on_event`` is called with each event line that comes between two answers."""

    def __init__(
        self,
        path: Path,
        connection: socket.socket | None = None,
        on_event: Callable[[dict[str, Any]], None] = lambda _event: None,
    ) -> None:
        """Connect. SourceError where nothing listens."""
        try:
            self._socket = connection or connect(path)
        except OSError as error:
            message = f"{path}: {_unheard(error)}; was the worker started with --monitor-socket?"
            raise SourceError(message) from None
        self._socket.settimeout(_PATIENCE_SECONDS)
        self._on_event = on_event
        self._ids = itertools.count(1)
        # All mutable state: bytes of a line that has not ended.
        self._held = b""

    def ask(self, action: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask one question. EOFError or OSError once the worker is gone, SourceError where it refuses."""
        request_id = f"ask-{next(self._ids)}"
        line = json.dumps({"request_id": request_id, "action": action, "data": data or {}}) + "\n"
        self._socket.sendall(line.encode())
        while True:
            reply = self._read_line()
            if "event" in reply:
                self._on_event(reply)
            elif reply.get("request_id") == request_id:
                if not reply["success"]:
                    raise SourceError(f"{action}: {reply['error']['message']}")
                return dict(reply["data"])

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _read_line(self) -> dict[str, Any]:
        while b"\n" not in self._held:
            piece = self._socket.recv(1 << 16)
            if not piece:
                raise EOFError
            self._held += piece
        line, _, self._held = self._held.partition(b"\n")
        return dict(json.loads(line))


def socket_of(attached: str) -> Path:
    """Return the socket that ``--attach PID|SOCKET`` means."""
    return default_path(int(attached)) if attached.isdecimal() else Path(attached)


def only_socket() -> Path | None:
    """Return the socket of the only worker of this user's that listens, or None without one. SourceError where several do.

    One that was killed leaves its socket, at which nobody listens.
    """
    found = [path for path in sorted(default_path(0).parent.glob("*.sock")) if _listens(path)]
    if len(found) > 1:
        pids = ", ".join(path.stem for path in found)
        raise SourceError(f"several workers listen ({pids}): say which with --attach PID")
    return found[0] if found else None


def _listens(path: Path) -> bool:
    try:
        connect(path).close()
    except OSError:
        return False
    return True


def connect(path: Path) -> socket.socket:
    """Connect. OSError where nothing listens, or the system has no such sockets."""
    if sys.platform == "win32":
        raise OSError("Windows has no such sockets: follow a record file")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def _unheard(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "there is no such socket"
    if error.errno == errno.ECONNREFUSED:
        return "no worker listens there any more"
    return said_of(error)


def wait_for_socket(path: Path, seconds: float) -> None:
    """Wait until a worker that was just started listens. SourceError if it does not."""
    until = time.monotonic() + seconds
    while True:
        try:
            connect(path).close()
        except OSError as error:
            if time.monotonic() > until:
                raise SourceError(f"{path}: {_unheard(error)}") from None
            time.sleep(0.02)
        else:
            return
