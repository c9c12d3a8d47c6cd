"""Requests of one gateway in the order in which it sent them: Ray keeps none for actors that answer side by side."""

import asyncio
from contextlib import suppress

from worker.fleet.words import Place

_PATIENCE_SECONDS = 1.0
"""How long one waits for those before it: where Ray lost one, the others go on."""


class Order:
    """All of it runs on one loop, so that it needs no lock."""

    def __init__(self) -> None:
        # All mutable state: the next number of each link, and who waits for its turn.
        self._next: dict[str, int] = {}
        self._waiting: dict[tuple[str, int], asyncio.Future[None]] = {}

    async def reach(self, place: Place) -> None:
        """Wait for a request's turn. Who comes next has its turn once this one waits for something else."""
        if place.number > self._next.setdefault(place.link, 1):
            mine = self._waiting[place.link, place.number] = asyncio.get_running_loop().create_future()
            with suppress(TimeoutError):
                await asyncio.wait_for(mine, _PATIENCE_SECONDS)
            self._waiting.pop((place.link, place.number), None)
        self._next[place.link] = max(self._next[place.link], place.number + 1)
        following = self._waiting.get((place.link, self._next[place.link]))
        if following is not None and not following.done():
            following.set_result(None)
