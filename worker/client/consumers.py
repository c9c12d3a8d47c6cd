"""Caches of this process that make room: kept known to the worker, asked by it where that costs least, and answered for."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, Self, TypeVar

from protocol.record import Record
from protocol.results import ConsumerLimitChangedData, ReleaseRequestedData
from protocol.vocabulary import EventName
from worker.client.calls import CallOptions, WorkerExitedError
from worker.client.client import Client
from worker.core.errors import WorkerError

_LOG = logging.getLogger("memory_worker")
_RENEWALS_PER_LEASE = 3
_PATIENCE_S = 5.0
"""How long the end waits for a cache that is just asked, and for the worker."""

R = TypeVar("R")


class Holding(Record):
    """What a cache holds, and what giving it back would cost."""

    held_bytes: int
    offers: tuple[tuple[int, float], ...] = ()
    """Bytes that could go, and in how many milliseconds they are made again; cheapest per byte first. Part of one may be asked for; one of 0 is none."""
    floor_bytes: int = 0
    """What it can't do without."""
    hits: int | None = None
    """Since it was made, as the next two: what is used of it tells whether what goes will be needed again."""
    misses: int | None = None
    saved_ms: float | None = None
    """Milliseconds of making things again that its hits have saved."""


class Cache(Protocol):
    """Memory of this process that can be given back. Called by a thread of its own, one call at a time."""

    consumer_id: str
    """Its name, the same for as long as it lives."""
    kind: str
    """Free text, such as ``response_cache``."""
    device_id: str
    """Where its memory is."""

    def holding(self) -> Holding:
        """Return what it holds at this moment."""
        ...

    def release(self, size_bytes: int) -> int:
        """Give so many bytes back to the system, or what can go. Returns how many; the worker measures for itself what came back."""
        ...

    def limit_changed(self, limit_bytes: int | None) -> None:
        """Hold no more than this from now on; None for no limit. It falls before a release, and rises again."""
        ...


class Consumers:
    """Caches that take part while this is open, with each worker that comes. Close it, or use ``with``.

    One that raises, or hangs, holds up no other; what it raises is logged, and it is tried again.
    """

    def __init__(self, memory: Client, *caches: Cache, lease_s: float = 30.0) -> None:
        """Register them, and do so again each third of ``lease_s``, for which the worker remembers one that is not heard of."""
        self._kept = [_Kept(memory, each, lease_s) for each in caches]

    def close(self) -> None:
        """Have the worker forget them. Idempotent."""
        for each in self._kept:
            each.close()
        self._kept = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Kept:
    """One cache, with the thread that calls it and the limit that it was told last."""

    def __init__(self, memory: Client, cache: Cache, lease_s: float) -> None:
        self._memory, self._cache, self._lease_s = memory, cache, lease_s
        self._limit_bytes: int | None = None
        # Before it is registered: one that nobody listens for is not asked.
        self._events = memory.events(EventName.RELEASE_REQUESTED, EventName.CONSUMER_LIMIT_CHANGED)
        self._thread = threading.Thread(target=self._run, name=f"consumer {cache.consumer_id}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End its thread, and have a worker that runs forget it."""
        self._events.close()
        self._thread.join(_PATIENCE_S)
        if self._memory.is_running:
            with suppress(WorkerError, WorkerExitedError):
                promptly = CallOptions(deadline_ms=int(1000 * _PATIENCE_S))
                self._memory.unregister_consumer(consumer_id=self._cache.consumer_id, options=promptly)

    def _run(self) -> None:
        while True:
            self._guarded(self._register)
            due = time.monotonic() + self._lease_s / _RENEWALS_PER_LEASE
            try:
                while True:
                    self._take(self._events.get(max(0.0, due - time.monotonic())).data)
            except TimeoutError:
                continue
            except StopIteration:
                return

    def _register(self) -> None:
        cache, held = self._cache, self._cache.holding()
        found = self._memory.register_consumer(
            consumer_id=cache.consumer_id,
            kind=cache.kind,
            device_id=cache.device_id,
            held_bytes=held.held_bytes,
            floor_bytes=held.floor_bytes,
            offers=[{"bytes": size, "cost_ms": cost_ms} for size, cost_ms in held.offers if size > 0],
            hits=held.hits,
            misses=held.misses,
            saved_ms=held.saved_ms,
            lease_ms=int(1000 * self._lease_s),
        )
        self._limit(found.limit_bytes)

    def _take(self, told: ReleaseRequestedData | ConsumerLimitChangedData) -> None:
        """Do what it is asked, and say so, whatever came of it."""
        if told.consumer_id != self._cache.consumer_id:
            return
        self._guarded(
            lambda: self._limit(told.limit_bytes)
        )  # first, so that what goes does not come back at once
        if isinstance(told, ReleaseRequestedData):
            released = max(0, self._guarded(lambda: self._cache.release(told.bytes)) or 0)
            self._guarded(lambda: self._memory.released(consumer_id=told.consumer_id, bytes=released))
            self._guarded(self._register)  # its offers are others now

    def _limit(self, limit_bytes: int | None) -> None:
        if limit_bytes != self._limit_bytes:
            self._limit_bytes = limit_bytes
            self._cache.limit_changed(limit_bytes)

    def _guarded(self, action: Callable[[], R]) -> R | None:
        try:
            return action()
        except (WorkerError, WorkerExitedError) as error:
            _LOG.warning(
                "room is made without %s until the worker takes it: %s",
                self._cache.consumer_id,
                error,
            )
        except Exception:  # noqa: BLE001 - whatever a cache raises
            _LOG.exception("the consumer %s failed", self._cache.consumer_id)
        return None
