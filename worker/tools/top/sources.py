"""Where the live view gets its snapshots: a worker's socket, or a record that somebody writes."""

import itertools
import json
import os
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, Protocol

from protocol.vocabulary import EventName
from worker.tools.report.happenings import Happening, Happenings
from worker.tools.report.recording import Recording
from worker.tools.top.snapshot import Replies, Snapshot, of_recording, of_replies

_PATIENCE_SECONDS = 10.0
_SHOWN = 200


class SourceError(Exception):
    """Nothing to show; the message says why."""


class Source(Protocol):
    """Gives snapshots."""

    def snapshot(self) -> Snapshot:
        """Return how it stands now. SourceError where nothing is known yet."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class SocketSource:
    """A running worker, asked for what is shown and told of what happens."""

    def __init__(self, path: Path, connection: socket.socket | None = None) -> None:
        self._name = str(path)
        try:
            self._socket = connection or _connect(path)
        except OSError as error:
            message = f"{path}: {error.strerror or error}; was the worker started with --monitor-socket?"
            raise SourceError(message) from None
        self._socket.settimeout(_PATIENCE_SECONDS)
        self._ids = itertools.count(1)
        # All mutable state: bytes of a line that has not ended, what happened, the last answer.
        self._held = b""
        self._happenings: deque[Happening] = deque(maxlen=_SHOWN)
        self._seen: set[tuple[Any, ...]] = set()
        self._last: Replies | None = None
        self._uptime_ms = 0
        self._hello = self._ask("worker.hello")
        self._ask("worker.subscribe", {"events": list(EventName)})

    def snapshot(self) -> Snapshot:
        """Ask. The last answers, marked as ended, once the worker is gone."""
        ended = False
        try:
            ping = self._ask("worker.ping")
            self._uptime_ms = ping["uptime_ms"]
            self._last = Replies(
                hello=self._hello,
                ping=ping,
                pressure=self._ask("memory.get_pressure"),
                status=self._ask("memory.get_status", {"include_usage_stats": True}),
                models=self._ask("memory.get_model_status"),
                timeline=self._ask(
                    "memory.get_analytics", {"time_range": "10m", "include": ["timeline", "evictions"]}
                ),
            )
            self._note_evictions(self._last.timeline["evictions"])
        except (OSError, EOFError):
            ended = True
        if self._last is None:
            raise SourceError(f"{self._name}: the worker did not answer")
        newest_first = sorted(self._happenings, key=lambda row: -row.t_ms)
        return of_replies(self._name, self._last, newest_first, ended=ended)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _note_evictions(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            at = self._uptime_ms - row["ms_ago"]
            key = (row["model_id"], row["freed_bytes"], row["reason"], at // 2000)
            if not self._seen & {key, (*key[:3], key[3] - 1)}:
                self._happenings.append(
                    Happening(at, "evict", row["device_id"], f"{row['model_id']} went", row["reason"], 1)
                )
            self._seen.add(key)

    def _ask(self, action: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask one question. EOFError once the worker is gone, SourceError where it refuses."""
        request_id = f"top-{next(self._ids)}"
        line = json.dumps({"request_id": request_id, "action": action, "data": data or {}}) + "\n"
        self._socket.sendall(line.encode())
        while True:
            reply = self._read_line()
            if "event" in reply:
                self._note(reply)
            elif reply.get("request_id") == request_id:
                if not reply["success"]:
                    raise SourceError(f"{action}: {reply['error']['message']}")
                return dict(reply["data"])

    def _note(self, event: dict[str, Any]) -> None:
        rows = Happenings()
        rows.add(event, self._uptime_ms)
        self._happenings.extend(rows.told())

    def _read_line(self) -> dict[str, Any]:
        while b"\n" not in self._held:
            piece = self._socket.recv(1 << 16)
            if not piece:
                raise EOFError
            self._held += piece
        line, _, self._held = self._held.partition(b"\n")
        return dict(json.loads(line))


class RecordSource:
    """A record file, read on as it grows, and from the start again when it is turned over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # All mutable state: the file, which one it is, and what it said.
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror or error}") from None
        self._inode = os.fstat(self._file.fileno()).st_ino
        self._held = b""
        self._recording = Recording()

    def snapshot(self) -> Snapshot:
        """Read what was added."""
        self._read()
        if self._turned_over():
            self._read()  # what came before it was turned over
            self._file.close()
            self._file = self._path.open("rb")
            self._inode = os.fstat(self._file.fileno()).st_ino
            self._held = b""
            self._read()
        if self._recording.first_ms is None:
            raise SourceError(f"{self._path}: nothing is recorded in it yet")
        return of_recording(str(self._path), self._recording)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _read(self) -> None:
        self._held += self._file.read()
        *lines, self._held = self._held.split(b"\n")  # the last line may still be being written
        for line in lines:
            self._recording.add(line.decode("utf-8", "replace"))

    def _turned_over(self) -> bool:
        try:
            found = self._path.stat()
        except OSError:
            return False
        return found.st_ino != self._inode or found.st_size < self._file.tell()


def _connect(path: Path) -> socket.socket:
    if sys.platform == "win32":
        raise OSError("Windows has no such sockets: follow a record file")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def wait_for_socket(path: Path, seconds: float) -> None:
    """Wait until a worker that was just started listens. SourceError if it does not."""
    until = time.monotonic() + seconds
    while True:
        try:
            _connect(path).close()
        except OSError as error:
            if time.monotonic() > until:
                raise SourceError(f"{path}: {error.strerror or error}") from None
            time.sleep(0.02)
        else:
            return
