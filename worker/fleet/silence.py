"""Nodes that answer nothing: each that leaves something unanswered for a while is asked whether it is there at all."""

import time
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from worker.core.errors import DeviceUnavailableError
from worker.core.sure_lock import SureLock
from worker.fleet.words import LEASE_SECONDS

SILENT_SECONDS = LEASE_SECONDS
"""A node that has answered nothing for so long, though it was asked, hangs: nothing more is asked of it until it answers."""


class NodeHangsError(DeviceUnavailableError):
    """A node answers nothing, and did not answer this either."""


class Asked(Hashable, Protocol):
    """How a node is reached."""

    node_id: str

    def ping(self) -> Any:
        """Ask whether it is there. Returns what Ray answers once it is."""
        ...


class Silence:
    """The nodes that were asked, and did not answer yet. Thread-safe; calls nobody while it is locked."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = SureLock()
        # All mutable state: since when each of them has answered nothing.
        self._since: dict[Asked, float] = {}

    def ask(self, link: Asked, since: float | None = None) -> None:
        """Ask a node whether it is there, unless that is being asked; ``since``: when it was asked for what it owes."""
        with self._lock:
            if link in self._since:
                return
            self._since[link] = self._now() if since is None else since
        link.ping().future().add_done_callback(lambda _: self.forget(link))

    def heard(self, link: Asked, at: float | None = None) -> None:
        """Note that a node was heard of."""
        if link in self._since:
            with self._lock:
                if link in self._since:
                    self._since[link] = max(self._since[link], self._now() if at is None else at)

    def forget(self, link: Asked) -> None:
        """Note that a node is not reached by this any more, or that it answered."""
        with self._lock:
            self._since.pop(link, None)

    def seconds(self, link: Asked) -> float:
        """Return for how long a node has answered nothing; 0 for one that nothing is known against."""
        since = self._since.get(link)
        return 0.0 if since is None else self._now() - since

    def why(self, link: Asked) -> str | None:
        """Say of a node that hangs what it does, as it follows its name; None for one that does not."""
        seconds = self.seconds(link)
        return None if seconds < SILENT_SECONDS else f"has answered nothing for {seconds:.0f} s"

    def check(self, link: Asked) -> None:
        """Raise NodeHangsError for a node that hangs."""
        why = self.why(link)
        if why is not None:
            raise NodeHangsError(f"{link.node_id} {why}", node=link.node_id)

    def nodes(self) -> frozenset[str]:
        """Return those that hang."""
        if not self._since:
            return frozenset()
        with self._lock:
            asked = tuple(self._since)
        return frozenset(each.node_id for each in asked if self.why(each) is not None)
