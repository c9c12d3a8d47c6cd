"""The directory: what every node said of itself last, for gateways to place by. An actor that keeps nothing on any disk.

It asks no node anything. Started again it knows nothing, and each node tells it all at its next beat.
"""

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from worker.fleet.known import KnownNode
from worker.fleet.views import NodeChange, NodeView
from worker.fleet.words import GATEWAY_SECONDS, LEASE_SECONDS, Heard, News, Since, Told

_SAID_MAX, _EVENTS_MAX = 16_384, 4096
"""What nodes said lately, and events, that are kept for gateways which did not hear them yet."""
_PAST_MAX = 8
"""Starts of a node's worker that are remembered, so that a late word of one of them is known for what it is."""
_FORGET_SECONDS = 600.0


class _Entry:
    """One node."""

    def __init__(self, view: NodeView, past: deque[str]) -> None:
        self.known = KnownNode(view)
        self.past = past
        self.told_at = 0.0


class Directory:
    """All of it runs on one loop, so that it needs no lock."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._instance = secrets.token_hex(8)
        self._started_at = now()
        # All mutable state: nodes, what they said lately and its number, events likewise, when each gateway asked last,
        # and what wakes who waits.
        self._nodes: dict[str, _Entry] = {}
        self._said: deque[tuple[int, NodeView | NodeChange]] = deque(maxlen=_SAID_MAX)
        self._events: deque[tuple[int, tuple[str, str, Any]]] = deque(maxlen=_EVENTS_MAX)
        self._change = self._event = 0
        self._gateways: dict[str, float] = {}
        self._news = asyncio.Event()

    async def tell(self, told: Told) -> Heard:
        """Take over what a node says; nothing of a revision or a start that is past, and no change that does not follow."""
        entry = self._nodes.get(told.node_id)
        if told.said is not None:
            refused = None if entry is None else _why_stale(entry, told.said)
            if refused is not None:
                return Heard(known=True, refused=refused)
            entry = self._taken_over(entry, told.said)
        if entry is None:
            return Heard(known=False)
        if told.said is not None:
            entry.told_at = self._now()
            self._change += 1
            self._said.append((self._change, told.said))
        for name, data in told.events:
            self._event += 1
            self._events.append((self._event, (told.node_id, name, data)))
        self._news.set()
        self._news = asyncio.Event()
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
        leases = {name: each.told_at + LEASE_SECONDS - now for name, each in self._nodes.items()}
        return News(
            Since(self._instance, self._change, self._event),
            self._said_since(known.change),
            {name: left for name, left in leases.items() if left > 0},
            tuple(event for number, event in self._events if number > known.event),
        )

    async def leave(self, gateway: str) -> bool:
        """Forget a gateway that ends in order. Returns whether it was the last one."""
        self._gateways.pop(gateway, None)
        return self._gateways_now() == ()

    # ---- inside ----

    def _taken_over(self, entry: _Entry | None, said: NodeView | NodeChange) -> _Entry | None:
        """Return the node as it is now; None where the whole view of it is needed."""
        if isinstance(said, NodeChange):
            return entry if entry is not None and entry.known.apply(said) else None
        past: deque[str] = deque(maxlen=_PAST_MAX) if entry is None else entry.past
        if entry is not None and entry.known.incarnation != said.incarnation:
            past.append(entry.known.incarnation)
        entry = self._nodes[said.node_id] = _Entry(said, past)
        return entry

    def _said_since(self, change: int) -> tuple[NodeView | NodeChange, ...]:
        if self._said and self._said[0][0] <= change + 1 and change:
            return tuple(each for number, each in self._said if number > change)
        return tuple(each.known.view() for each in self._nodes.values())

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


def _why_stale(entry: _Entry, said: NodeView | NodeChange) -> str | None:
    if said.incarnation in entry.past:
        return "it is of a worker that was started again since"
    if said.incarnation == entry.known.incarnation and said.revision <= entry.known.revision:
        return f"revision {said.revision} is past: {entry.known.revision} is known"
    return None
