"""Whole segments go when much is asked back: what was used often stays, and of what goes nothing is left."""

from array import array
from collections.abc import Iterator
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from protocol.vocabulary import StoreKind
from tests.unit.stores.stores import HERE, World, item
from worker.core.cancellation import CancelToken
from worker.plugins import CancelledError, OutOfMemoryError
from worker.stores import segment
from worker.stores.base import Choice, Options, Scope
from worker.stores.key_index import KeyIndex

KIB = 1024
NAME = "store:cache:answers"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.stores.giving.SEGMENT_BYTES", 64 * KIB)
    monkeypatch.setattr("worker.stores.segments.SEGMENT_BYTES", 64 * KIB)


def release(kind: Any, size: int) -> int:
    """Have as much go as a plan takes: of the last offer a part."""
    gone = 0
    for each in kind.offers(size):
        gone += kind.release(replace(each, bytes=min(each.bytes, size - gone)), CancelToken(lambda: 0))
        if gone >= size:
            break
    return gone


def filled(world: World, **options: Any) -> tuple[Any, Any]:
    cache: Any = world.cache(**options)
    for number in range(2000):
        cache.put(item(f"{number:04}", f"{number:04}".encode() * 256, cost_ms=100.0))
    return cache, world.consumers.by_id[NAME]


def test_what_is_used_again_and_again_stays() -> None:
    """It lies among others that are not, and is moved."""
    world = World()
    cache, kind = filled(world)
    often = [f"{number:04}" for number in range(0, 2000, 100)]
    for _ in range(8):
        for key in often:
            cache.get(key)
    held = kind.held_bytes
    assert release(kind, held // 2) == pytest.approx(held / 2, rel=0.06)
    assert kind.held_bytes == cache.held_bytes == sum(each.entry_bytes for each in cache._table)
    assert kind.memory.held_bytes <= kind.memory.alive_bytes * 65 // 64 + 64 * KIB
    for key in often:
        assert cache.get(key).content.data == key.encode() * 256


def test_scopes_and_kinds_of_entries_side_by_side(tmp_path: Path) -> None:
    """Tags, files and lifetimes: what goes is found by nothing, and what stays is whole."""
    world = World(tmp_path)
    plain, kind = filled(world)
    tagged: Any = world.cache(scope=Scope("ann", "p"), ttl_ms=10_000)
    kept: Any = world.cache(scope=Scope("bob", "p"), persist=True)
    for number in range(500):
        data = f"{number:04}".encode() * 256
        tagged.put(item(f"{number:04}", data, cost_ms=100.0, tags=(f"t{number % 5}", "all")))
        kept.put(item(f"{number:04}", data, cost_ms=100.0))
    stores = (plain, tagged, kept)
    for _ in range(6):
        release(kind, kind.held_bytes // 3)
        assert kind.held_bytes == sum(each.held_bytes for each in stores)
        for store in stores:
            entries = list(store._table)
            assert store.held_bytes == sum(each.held_bytes for each in entries)
            assert store.figures().entry_count == len(entries)
            for entry in entries:
                assert store.get(entry.key).content.data == entry.key.encode() * 256
        there = {each.key for each in tagged._table}
        assert {each.key for each in tagged._having(("all",))} == there
        assert {each.key for each in tagged._having(("t3", "all"))} == {
            key for key in there if int(key) % 5 == 3
        }
    assert kept.figures().entry_count == 500
    world.clock.move(10_000)
    world.stores.tend()
    assert len(tagged._table) == 0
    assert tagged.delete(Choice(tag="all")).entries == 0
    world.stores.close()


def test_what_went_at_once_is_found_by_nothing_and_may_come_again() -> None:
    """Its keys are listed, deleted and counted no more; put again, they are there once."""
    world = World()
    cache, kind = filled(world, max_bytes=3_000_000)
    for turn in range(5):
        release(kind, kind.held_bytes // 2)
        there = {each.key for each in cache._table}
        assert 500 < len(there) == cache.figures().entry_count
        assert {each.key for each in cache.page(None, 2000).entries} == there
        assert all(
            (cache.get(f"{number:04}") is not None) is (f"{number:04}" in there) for number in range(2000)
        )
        assert cache.delete(Choice(prefix="00")).entries == sum(key.startswith("00") for key in there)
        for number in range(2000):
            data = f"{turn}-{number:04}".encode() * 200
            cache.put(item(f"{number:04}", data, cost_ms=100.0))
        assert cache.get("0001").content.data == f"{turn}-0001".encode() * 200
    assert kind.held_bytes == cache.held_bytes == sum(each.entry_bytes for each in cache._table)
    assert sum(each.mask + 1 for each in set(cache._table._index._tables)) <= 4 * len(cache._table) + 512


class Watched(array):  # type: ignore[type-arg]  # at run time it takes none
    """Offsets of records, which count who goes through them."""

    seen = 0

    def __iter__(self) -> Iterator[int]:
        Watched.seen += 1
        return super().__iter__()


def test_what_went_at_once_is_not_looked_at() -> None:
    """However many entries a segment has: but what was used again, only those of the last one are."""
    world = World()
    cache, kind = filled(world)
    cache.get("0007")
    (offer, *_) = kind.offers(kind.held_bytes)
    for each in kind.memory.segments.values():
        each.offsets = Watched("I", each.offsets)
    kind.release(offer, CancelToken(lambda: 0))
    assert len(cache._table) < 1200
    assert Watched.seen <= 3


def test_any_number_of_segments_may_come_and_go() -> None:
    """Places are told apart by more than 65,536 of them, which 128 GiB of entries are."""
    world = World()
    cache, kind = filled(world)
    kind.memory._last = 2**16 - 1
    for number in range(200):
        cache.put(item(f"late-{number}", bytes([number]) * 1000, cost_ms=100.0))
    assert kind.memory._last >= 2**16
    for number in range(200):
        assert cache.get(f"late-{number}").content.data == bytes([number]) * 1000


def test_huge_pages_take_no_more_than_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is small has none that is not full; one that is large is written in them, until most of it is gone."""
    monkeypatch.setattr(segment, "SEGMENT_BYTES", 64 * KIB)
    monkeypatch.setattr(segment, "collapse", lambda *_: True)
    world = World()
    cache: Any = world.cache()
    began = 0
    for number in range(4000):
        cache.put(item(f"{number:04}", bytes(500 + number % 3000), cost_ms=100.0))
        memory = world.consumers.by_id[NAME].memory
        segments = memory.segments.values()
        assert memory.held_bytes == sum(each.held for each in segments)
        assert memory.spare_bytes == sum(each.spare for each in segments)
        assert all(each.spare in {0, -each.used % (64 * KIB), 64 * KIB} for each in segments)
        assert memory.spare_bytes <= (memory.held_bytes - memory.spare_bytes) // 16
        began += any(each.spare > 32 * KIB for each in segments)
    assert began > 100
    for number in range(3980):
        cache.delete(Choice(key=f"{number:04}"))
    assert cache.figures().entry_count == 20
    assert memory.spare_bytes <= 64 * KIB + (memory.held_bytes - memory.spare_bytes) // 16
    assert memory.held_bytes == sum(each.held for each in memory.segments.values())
    for number in range(3980, 4000):
        assert cache.get(f"{number:04}").content.data == bytes(500 + number % 3000)


@pytest.mark.parametrize("huge", [False, True])
def test_segments_are_larger_where_more_is_held(huge: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a small store all are small; and whatever is read, deleted and given back of large ones, it is counted, and the rest is whole."""
    monkeypatch.setattr(segment, "SEGMENT_BYTES", 64 * KIB)
    monkeypatch.setattr(segment, "collapse", lambda *_: huge)
    world = World()
    cache: Any = world.cache()
    for number in range(6000):
        cache.put(item(f"{number:04}", f"{number:04}".encode() * (number % 3000 // 4), cost_ms=100.0))
        memory = world.consumers.by_id[NAME].memory
        assert max(each.size for each in memory.segments.values()) <= max(64 * KIB, memory.held_bytes // 16)
    sizes = {each.size for each in memory.segments.values()}
    assert {64 * KIB, 256 * KIB} < sizes
    for number in range(0, 6000, 2):
        cache.delete(Choice(key=f"{number:04}"))
    for _ in range(4):
        release(world.consumers.by_id[NAME], memory.alive_bytes // 3)
        left = list(memory.segments.values())
        assert memory.held_bytes == sum(each.held for each in left)
        assert memory.spare_bytes == sum(each.spare for each in left)
        assert memory.alive_bytes == sum(each.alive for each in left)
        assert memory.held_bytes - memory.spare_bytes <= memory.alive_bytes * 65 // 64 + 64 * KIB
        for entry in list(cache._table):
            assert cache.get(entry.key).content.data == entry.key.encode() * (int(entry.key) % 3000 // 4)


def test_what_was_offered_and_lies_elsewhere_by_now_is_made_up_for() -> None:
    """Closing the gaps after one offer moves what the next ones are of: as much goes all the same."""
    world = World()
    cache, kind = filled(world)
    offer, before = kind.offers(kind.held_bytes // 2)[0], kind.held_bytes
    for each in list(kind.memory.segments.values()):
        kind.memory.move_out(each)
    assert kind.release(offer, CancelToken(lambda: 0)) == before - kind.held_bytes
    assert offer.bytes <= before - kind.held_bytes < offer.bytes + 2 * KIB
    assert len(cache._table) < 1200


@pytest.mark.parametrize("size", [10 * KIB, 100 * KIB])
def test_of_huge_pages_as_much_is_back_as_is_claimed(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has nothing back of a part of one: each goes as a whole, be it for little or as the last of more."""
    monkeypatch.setattr(segment, "SEGMENT_BYTES", 64 * KIB)
    monkeypatch.setattr(segment, "collapse", lambda *_: True)
    monkeypatch.setattr("worker.stores.entries.MIB", KIB)
    world = World()
    cache, kind = filled(world)
    for number in range(4000):
        cache.put(item(f"more-{number}", bytes(1024), cost_ms=100.0))
    assert {each.size for each in kind.memory.segments.values()} == {64 * KIB, 128 * KIB, 256 * KIB}
    for _ in range(20):
        before = kind.memory.held_bytes
        claimed = release(kind, size)
        assert size <= claimed <= size + 64 * KIB
        assert before - kind.memory.held_bytes >= max(size, 0.9 * claimed)


def test_a_segment_is_in_a_huge_page_as_soon_as_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the last that is written for long, and small pages are given back many times as slowly."""
    monkeypatch.setattr(segment, "SEGMENT_BYTES", 64 * KIB)
    monkeypatch.setattr(segment, "collapse", lambda *_: True)
    world = World()
    cache: Any = world.cache()
    full = 0
    for number in range(1000):
        cache.put(item(f"{number:04}", bytes(1500), cost_ms=100.0))
        there = [each for each in world.consumers.by_id[NAME].memory.segments.values() if each.is_full]
        full = max(full, len(there))
        assert all(
            each.huge for each in there if each.number > 2
        )  # the first ones are too much for so small a store
    assert full > 15


def test_what_was_used_but_once_is_priced_by_the_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entries were put at about the same time: only where one was used again are they looked at one by one."""
    world = World()
    cache, kind = filled(world)
    looked, at = list[int](), cache.prices.at

    def watched(now_ns: int) -> Any:
        uses = at(now_ns)
        return lambda name: (looked.append(name), uses(name))[1]

    monkeypatch.setattr(cache.prices, "at", watched)
    *_, one = kind.memory.segments.values()

    def dearest() -> Any:
        lots = (lot for offer in kind.offers(kind.held_bytes) for lot in offer.tag)
        return max(lots, key=itemgetter(0)).what

    assert dearest() is not one
    assert len(looked) == len(kind.memory.segments)
    often = [each.key for each in cache._table if each.hash in one.told_names]
    for key in 200 * often:
        cache.get(key)
    looked.clear()
    assert dearest() is one
    assert len(looked) == len(kind.memory.segments) - 1 + len(one.telling)


def test_little_is_asked_of_much() -> None:
    """A part of a segment goes, by single entries, and not much more than was asked for."""
    world = World()
    cache, kind = filled(world)
    held = kind.held_bytes
    for offer in kind.offers(70 * KIB)[:1]:
        freed = kind.release(type(offer)(10 * KIB, 0.0, "", tag=offer.tag), CancelToken(lambda: 0))
    assert 10 * KIB <= freed < 14 * KIB
    assert kind.held_bytes == held - freed == cache.held_bytes


def test_a_release_that_is_cancelled_ends_between_segments() -> None:
    """What went until then is counted, and everything else is there."""
    world = World()
    cache, kind = filled(world)
    token = CancelToken(world.clock.now_ns)
    (offer, *_) = kind.offers(kind.held_bytes)
    token.cancel()
    with pytest.raises(CancelledError):
        kind.release(offer, token)
    assert cache.figures().entry_count == 2000


def test_where_no_map_is_to_be_had_what_stays_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving needs one: without it gaps are left, and nothing is lost that was not chosen."""
    world = World()
    cache, kind = filled(world)
    for _ in range(8):
        for number in range(0, 2000, 3):
            cache.get(f"{number:04}")

    def refuse(_size: int, _what: str) -> None:
        raise OutOfMemoryError("refused")

    monkeypatch.setattr(segment, "anonymous", refuse)
    monkeypatch.setattr("worker.stores.key_index.anonymous", refuse)
    release(kind, kind.held_bytes // 2)
    assert kind.held_bytes == cache.held_bytes == sum(each.entry_bytes for each in cache._table)
    for entry in list(cache._table):
        assert cache.get(entry.key).content.data == entry.key.encode() * 256
    cache.clear()
    assert kind.memory.held_bytes == 0


def test_keys_with_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """By chance, or because someone found them."""
    monkeypatch.setattr("worker.stores.table.hash_of", lambda _: 7)
    monkeypatch.setattr("worker.stores.entry.hash_of", lambda _: 7)
    cache: Any = World().cache(ttl_ms=50)
    for number in range(60):
        cache.put(item(str(number), str(number).encode(), tags=(f"t{number % 2}",)))
    for number in range(60):
        assert cache.get(str(number)).content.data == str(number).encode()
    assert cache.delete(Choice(tag="t1")).entries == 30
    assert [cache.get(str(number)) is None for number in range(4)] == [False, True, False, True]


def test_sessions_in_memory_alone_are_no_segments_to_give() -> None:
    """However much is asked for."""
    world = World()
    pool: Any = world.stores.open("chats", HERE, StoreKind.SESSIONS, Options()).store
    for number in range(400):
        pool.put(item(str(number), bytes(KIB)))
    kind = world.consumers.by_id["store:sessions:chats"]
    assert kind.offers(10**9) == ()
    assert kind.holding().spare_bytes == 0
    assert pool.figures().price_ms_per_mib is None


def test_an_index_has_a_slot_for_what_is_prepared() -> None:
    """What was reserved is there, whatever was reserved after it."""
    index = KeyIndex(lambda _: True)
    for name in range(1, 400):
        index.reserve(name)
        index.reserve(name)
        index.add(name, name)
    assert index.count == 399
