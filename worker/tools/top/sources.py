"""Where the live view gets its snapshots: a worker's socket, or a record that a worker writes."""

import os
import socket
from collections import deque
from pathlib import Path
from typing import Any, Protocol

from protocol.vocabulary import EventName
from worker.core.paths import said_of
from worker.tools.attached import AttachedWorker, SourceError
from worker.tools.report.happenings import Happening, Happenings
from worker.tools.report.recording import MAX_LINE, Recording
from worker.tools.top.snapshot import Replies, Snapshot, of_recording, of_replies

_SHOWN = 200
_PAGE = 500
"""Devices that are asked for at once: some hundred kilobytes of figures."""
_CURVES = 64
"""Of more devices than this no curve is asked for: each has a point a second, and a screen shows few."""
_CHUNK_BYTES = 2**20


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
        """Connect, and subscribe. SourceError where the worker does not serve it."""
        self._name = str(path)
        # All mutable state: what happened, the last answer.
        self._happenings: deque[Happening] = deque(maxlen=_SHOWN)
        self._seen: set[tuple[Any, ...]] = set()
        self._last: Replies | None = None
        self._uptime_ms = 0
        self._worker = AttachedWorker(path, connection, self._note)
        happen = [name for name in EventName if name is not EventName.FIGURES]  # which are asked for here
        try:
            self._hello = self._worker.ask("worker.hello")
            self._worker.ask("worker.subscribe", {"events": happen})
        except (OSError, EOFError):
            self.close()
            why = "it is ending, or has as many live views as it serves"
            raise SourceError(f"{path}: the worker hung up: {why}") from None

    def snapshot(self) -> Snapshot:
        """Ask. The last answers, marked as ended, once the worker is gone."""
        ended = False
        try:
            ping = self._worker.ask("worker.ping")
            self._uptime_ms = ping["uptime_ms"]
            status = self._status()
            many = len(status["devices"]) > _CURVES
            self._last = Replies(
                hello=self._hello,
                ping=ping,
                pressure=self._worker.ask("memory.get_pressure"),
                status=status,
                models=self._worker.ask("memory.get_model_status"),
                timeline=self._worker.ask(
                    "memory.get_analytics",
                    {"time_range": "10m", "include": ["evictions"] if many else ["timeline", "evictions"]},
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
        self._worker.close()

    def _status(self) -> dict[str, Any]:
        """Ask where the memory is, page by page where the worker has pages: one of a thousand nodes is long."""
        asked = {"include_usage_stats": True, "include_processes": True}
        pages = "fleet.drain" in self._hello["actions"]  # which came with them
        status = self._worker.ask("memory.get_status", asked | ({"limit": _PAGE} if pages else {}))
        page = status
        while (after := page.get("next")) is not None:
            page = self._worker.ask("memory.get_status", asked | {"limit": _PAGE, "after": after})
            status["devices"] += page["devices"]
        return status

    def _note_evictions(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            at = self._uptime_ms - row["ms_ago"]
            key = (row["model_id"], row["freed_bytes"], row["reason"], at // 2000)
            if not self._seen & {key, (*key[:3], key[3] - 1)}:
                self._happenings.append(
                    Happening(at, "evict", row["device_id"], f"{row['model_id']} went", row["reason"], 1)
                )
            self._seen.add(key)

    def _note(self, event: dict[str, Any]) -> None:
        rows = Happenings()
        rows.add(event, self._uptime_ms)
        self._happenings.extend(rows.told())


class RecordSource:
    """A record file, read on as it grows, and from the start again when it is turned over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # All mutable state: the file, which one it is, and what it said.
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise SourceError(f"{path}: {said_of(error)}") from None
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
        while chunk := self._file.read(_CHUNK_BYTES):
            *lines, self._held = (self._held + chunk).split(b"\n")  # the last line may still be being written
            for line in lines:
                self._recording.add(line.decode("utf-8", "replace"))
            if len(self._held) > MAX_LINE:
                self._held = b"too long, and so unreadable: "

    def _turned_over(self) -> bool:
        try:
            found = self._path.stat()
        except OSError:
            return False
        return found.st_ino != self._inode or found.st_size < self._file.tell()
