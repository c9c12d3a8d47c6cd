"""Stores among surroundings of a test's: a clock that is moved by hand, and a list of consumers."""

from pathlib import Path
from typing import Any

from protocol.vocabulary import StoreKind
from worker.core.clock import NS_PER_MS
from worker.plugins import Consumer
from worker.stores.base import Content, Item, Options, Scope, Store, Tools
from worker.stores.registry import Stores

HERE = Scope("default_user", "default")


class Clock:
    """A clock that stands until it is moved. A restart keeps the time of day."""

    def __init__(self) -> None:
        self.ns = 10**9

    def now_ns(self) -> int:
        return self.ns

    def utc_ms(self) -> int:
        return 1_700_000_000_000 + self.ns // NS_PER_MS

    def move(self, ms: float) -> None:
        self.ns += int(ms * NS_PER_MS)


class Added:
    """As ``host.consumers``."""

    def __init__(self) -> None:
        self.by_id: dict[str, Any] = {}

    def add(self, consumer: Consumer) -> None:
        if consumer.consumer_id in self.by_id:
            raise ValueError(consumer.consumer_id)
        self.by_id[consumer.consumer_id] = consumer

    def remove(self, consumer_id: str) -> None:
        self.by_id.pop(consumer_id, None)


class World:
    """Stores, and what is around them."""

    def __init__(self, folder: Path | None = None) -> None:
        self.clock = Clock()
        self.folder = folder
        self.consumers = Added()
        self.stores = self.made()

    def made(self) -> Stores:
        """Return the stores of a worker that begins now."""
        self.consumers.by_id.clear()
        return Stores(Tools(self.consumers, self.clock.now_ns, self.clock.utc_ms, self.folder))

    def cache(self, name: str = "answers", scope: Scope = HERE, **options: Any) -> Store:
        return self.stores.open(name, scope, StoreKind.CACHE, Options(**options)).store


def item(key: str, data: bytes = b"1", **said: Any) -> Item:
    return Item(key, Content(data), **said)
