"""Ollama: ``/api/ps`` says what is loaded and how much of it is on the GPU, ``keep_alive: 0`` unloads a model."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from protocol.record import Record
from worker.core.records import HOST
from worker.servers.base import Seen, Served, Step, bytes_of, gone, name_of, rows, unloads
from worker.servers.http import Http

UNLOAD_S = 10.0
_STILL_S = 0.1
"""Less than two looks are apart."""
_SKEW_S = 1.0
"""``expires_at`` is of the server's clock, and so long past only while the model is in use."""


class _Expiry(Record):
    """When a model's keep-alive ends."""

    said: str
    left_s: float
    """From when that was heard."""
    took_s: float
    """For how long it was asked: it was said at any time of that."""
    seen_at: datetime
    used: str
    """What was said when it was last idle: changes with each use."""
    busy: bool


class Ollama:
    """One Ollama. It does not say whether a model is in use, but its ``expires_at`` does.

    1. It is past: its timer is stopped while the model answers, or is about to go.
    2. It keeps its distance from now: the model is being loaded, or gives its first answer.
    3. It stays: the model is idle; another one than before tells of a use in between.
    """

    def __init__(self, http: Http, device_id: str) -> None:
        self._http = http
        self._on_host = device_id == HOST
        # All mutable state: what was said of each model that is loaded.
        self._expiries: dict[str, _Expiry] = {}

    def look(self) -> Seen:
        """Ask what is loaded."""
        found, expiries = [], dict[str, _Expiry]()
        asked = time.monotonic()
        said = rows(self._http.get("/api/ps"), "models")
        took_s = time.monotonic() - asked
        for row in said:
            name, size, on_gpu = (
                name_of(row, "name", "model"),
                bytes_of(row.get("size")),
                bytes_of(row.get("size_vram")),
            )
            if name is None:
                continue
            here = None if size is None or on_gpu is None else size - min(size, on_gpu)
            size_here = here if self._on_host else on_gpu
            expiry = _read(row.get("expires_at"), self._expiries.get(name), _now(), took_s)
            if expiry is None:
                found.append(Served(name, size_here))
                continue
            expiries[name] = expiry
            found.append(Served(name, size_here, busy=expiry.busy, used=expiry.used))
        self._expiries = expiries
        return Seen(tuple(found))

    def steps(self, seen: Seen) -> tuple[Step, ...]:
        """Unload a model."""
        return unloads(seen)

    def give_back(self, step: Step) -> None:
        """Have a model's keep-alive end now. A request that it is answering is answered first; it says yes at once."""
        self._http.post(
            "/api/generate", {"model": step.model, "keep_alive": 0, "stream": False}, within_s=UNLOAD_S
        )

    def is_done(self, step: Step, seen: Seen) -> bool:
        """Look whether it is gone."""
        return gone(step, seen)

    def close(self) -> None:
        """Let go of its connections."""
        self._http.close()


def _now() -> datetime:
    return datetime.now(UTC)


def _read(said: Any, before: _Expiry | None, now: datetime, took_s: float) -> _Expiry | None:
    """Read when a model expires, and whether it is in use; None where that is not told."""
    try:
        left_s = (datetime.fromisoformat(said) - now) / timedelta(seconds=1)
    except (ValueError, TypeError, OverflowError):  # no time, or one without its zone
        return None
    is_past = left_s < -_SKEW_S  # 1
    if before is None or said == before.said:  # 3
        return _Expiry(said, left_s, took_s, now, before.used if before is not None else said, is_past)
    if not is_past and abs((now - before.seen_at) / timedelta(seconds=1)) < _STILL_S:  # too soon to tell
        return before
    is_moving = abs(left_s - before.left_s) < _STILL_S / 2 + max(took_s, before.took_s)  # 2
    busy = is_past or is_moving
    return _Expiry(said, left_s, took_s, now, before.used if busy else said, busy)
