"""The directory: what every node said of itself last, for gateways to place by. An actor that keeps nothing on any disk.

It asks no node anything. Started again it knows nothing, and each node tells it all at its next beat.
"""

import asyncio
import contextlib
import itertools
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from worker.fleet.views import NodeView
from worker.fleet.words import GATEWAY_SECONDS, LEASE_SECONDS, Heard, News, Since, Told

_EVENTS_MAX = 4096
_PAST_MAX = 8
"""Starts of a node's worker that are remembered, so that a late word of one of them is known for what it is."""
_FORGET_SECONDS = 600.0


class _Entry:
    """One node."""

    def __init__(self) -> None:
        self.view: NodeView | None = None
        self.change = 0
        self.told_at = 0.0
        self.past: deque[str] = deque(maxlen=_PAST_MAX)


class Directory:
    """All of it runs on one loop, so that it needs no lock."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._instance = secrets.token_hex(8)
        self._started_at = now()
        self._changes, self._numbers = itertools.count(1), itertools.count(1)
        # All mutable state: nodes, events that were told lately by number, when each gateway asked last, and who waits.
        self._nodes: dict[str, _Entry] = {}
        self._events: deque[tuple[int, tuple[str, str, Any]]] = deque(maxlen=_EVENTS_MAX)
        self._gateways: dict[str, float] = {}
        self._change = self._event = 0
        self._news = asyncio.Event()

    async def tell(self, told: Told) -> Heard:
        """Take over what a node says; nothing of a revision or a start that is past."""
        entry = self._nodes.setdefault(told.node_id, _Entry())
        refused = _why_stale(entry, told)
        if refused is not None:
            return Heard(known=True, refused=refused)
        view = entry.view
        if told.view is not None:
            if view is not None and view.incarnation != told.incarnation:
                entry.past.append(view.incarnation)
            entry.view = told.view
            entry.change = self._change = next(self._changes)
        elif view is None or (view.incarnation, view.revision) != (told.incarnation, told.revision):
            return Heard(known=False)
        entry.told_at = self._now()
        for name, data in told.events:
            self._event = next(self._numbers)
            self._events.append((self._event, (told.node_id, name, data)))
        if told.view is not None or told.events:
            self._wake()
        return Heard(known=True, gateways=self._gateways_now())

    async def follow(self, gateway: str, since: Since, patience: float) -> News:
        """Return what a gateway does not know yet, at the latest after ``patience`` seconds. So it is known to be there."""
        self._gateways[gateway] = self._now()
        known = since if since.directory == self._instance else Since(self._instance)
        if known.change == self._change and known.event == self._event:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), patience)
        now = self._now()
        self._gateways[gateway] = now
        self._forget(now)
        entries = [each for each in self._nodes.values() if each.view is not None]
        return News(
            Since(self._instance, self._change, self._event),
            tuple(each.view for each in entries if each.view is not None and each.change > known.change),
            tuple(
                (each.view.node_id, each.view.incarnation, left)
                for each in entries
                if each.view is not None and (left := each.told_at + LEASE_SECONDS - now) > 0
            ),
            tuple(event for number, event in self._events if number > known.event),
        )

    async def leave(self, gateway: str) -> None:
        """Forget a gateway that ends in order."""
        self._gateways.pop(gateway, None)

    async def is_used(self) -> bool:
        """Tell whether a gateway is there, or may be."""
        return self._gateways_now() != ()

    def _gateways_now(self) -> tuple[str, ...] | None:
        now = self._now()
        if now < self._started_at + GATEWAY_SECONDS:
            return None
        return tuple(each for each, at in self._gateways.items() if at + GATEWAY_SECONDS > now)

    def _forget(self, now: float) -> None:
        for name in [name for name, each in self._nodes.items() if each.told_at + _FORGET_SECONDS < now]:
            del self._nodes[name]
        for name in [name for name, at in self._gateways.items() if at + _FORGET_SECONDS < now]:
            del self._gateways[name]

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _why_stale(entry: _Entry, told: Told) -> str | None:
    view = entry.view
    if told.incarnation in entry.past:
        return "it is of a worker that was started again since"
    if view is not None and view.incarnation == told.incarnation and told.revision < view.revision:
        return f"revision {told.revision} is past: {view.revision} is known"
    return None
