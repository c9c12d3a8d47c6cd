"""What persists is there again after any end of the process, and in no other place than its own."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.vocabulary import StoreKind, StorePreset
from tests.unit.stores.stores import HERE, World, item
from worker.core.cancellation import CancelToken
from worker.plugins import InvalidRequestError, StoreNotFoundError, UnsupportedError
from worker.stores.base import Choice, Content, Form, Item, Options, Question, Scope
from worker.stores.entry import ENTRY_BYTES
from worker.stores.file_format import FORMAT
from worker.stores.folder import StoreFolder

KIB = 1024


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "stores")
    yield world
    world.stores.close()


def restarted(world: World) -> None:
    """End the worker, and begin another one later."""
    world.stores.close()
    world.clock.move(5000)
    world.stores = world.made()


def files(world: World) -> list[Path]:
    assert world.folder is not None
    return sorted(each for each in world.folder.glob("*/*/*") if each.is_file())


def test_entries_are_there_again_with_all_that_is_known_of_them(world: World) -> None:
    """Value, form, tags, age and end; the options, too. Nothing is in memory before it is asked for."""
    cache = world.cache(persist=True, max_bytes=90_000)
    cache.put(item("json", b'{"a":1}', cost_ms=7.5, tags=("x", "ü")))
    cache.put(item("bytes", b"\0\xff" * 1000, ttl_ms=60_000))
    cache.put(item("short", b"1", ttl_ms=4000))
    cache.put(item("gone"))
    cache.delete(Choice(key="gone"))
    restarted(world)
    with pytest.raises(StoreNotFoundError):
        world.stores.get("answers", HERE)
    opened = world.stores.open("answers", HERE, StoreKind.CACHE, Options())
    assert not opened.created
    cache = opened.store
    assert cache.limit_bytes == 90_000
    held = cache.figures().held_bytes
    assert held < 3 * (ENTRY_BYTES + 20)
    assert [(e.key, e.age_ms, e.expires_in_ms) for e in cache.page(None, 9).entries] == [
        ("bytes", 5000, 55_000),
        ("json", 5000, None),
    ]
    found = cache.get("bytes")
    assert found is not None
    assert found.content == Content(b"\0\xff" * 1000, Form.JSON)
    assert cache.figures().held_bytes == held + 2000
    assert cache.delete(Choice(tag="ü")).entries == 1
    assert cache.get("json") is None


def test_bytes_leave_memory_for_the_price_of_reading_them_back(world: World) -> None:
    """Under pressure an entry on disk is cooled, not lost, however dear it is to make."""
    cache: Any = world.cache(persist=True)
    kind = world.consumers.by_id["store:cache:answers"]
    for number in range(50):
        cache.put(item(str(number), bytes(64 * KIB), cost_ms=60_000))
    held = kind.holding().held_bytes
    offers = kind.offers(held)
    assert sum(each.cost_ms for each in offers) < 60_000
    assert sum(kind.release(each, CancelToken(lambda: 0)) for each in offers) == 50 * 64 * KIB
    assert kind.memory.held_bytes == kind.memory.alive_bytes < 50 * ENTRY_BYTES
    assert cache.figures().entry_count == 50
    for number in range(50):
        found = cache.get(str(number))
        assert found is not None
        assert found.content.data == bytes(64 * KIB)
    assert kind.holding().held_bytes == held


def test_what_is_warmed_stays_within_the_limit(world: World) -> None:
    """Reading does not undo what pressure asked for."""
    cache = world.cache(persist=True)
    kind = world.consumers.by_id["store:cache:answers"]
    for number in range(20):
        cache.put(item(str(number), bytes(64 * KIB)))
    kind.limit_changed(300 * KIB, "memory is short")
    for number in range(20):
        found = cache.get(str(number))
        assert found is not None
        assert len(found.content.data) == 64 * KIB
    put = cache.put(item("more", bytes(64 * KIB)))
    assert (put.reason, put.evicted_entries) == (None, 0)
    assert kind.holding().held_bytes <= 300 * KIB
    assert cache.figures().entry_count == 21
    assert cache.figures().evictions == 0


def test_the_bound_counts_what_is_on_disk(world: World) -> None:
    """``max_bytes`` holds for all entries, wherever they are, and what goes for it is on disk no more."""
    cache = world.cache(persist=True, max_bytes=10 * (KIB + ENTRY_BYTES + 2))
    for number in range(10, 40):
        cache.put(item(str(number), bytes(KIB), cost_ms=number))
    left = [each.key for each in cache.page(None, 99).entries]
    assert len(left) == 10
    restarted(world)
    assert [each.key for each in world.cache().page(None, 99).entries] == left


def test_it_persists_only_where_there_is_a_folder_and_only_from_the_start(world: World) -> None:
    """What can't be met is refused, and what is on disk is not hidden behind a store in memory."""
    with pytest.raises(InvalidRequestError, match="--store-folder"):
        World().cache(preset=StorePreset.RESULTS)
    world.cache("memory")
    for options in ({"persist": True}, {"preset": StorePreset.RESULTS}):
        with pytest.raises(InvalidRequestError, match="close it first"):
            world.cache("memory", **options)
    world.cache("disk", preset=StorePreset.RESULTS).put(item("a"))
    restarted(world)
    with pytest.raises(InvalidRequestError, match="on disk"):
        world.cache("disk", persist=False)
    assert world.cache("disk").get("a") is not None


def test_names_are_no_paths(world: World) -> None:
    """Whatever a name is, its file lies in the folder, with a name of hexadecimal digits."""
    names = [
        "../../etc/passwd",
        "/etc/passwd",
        "con",
        "a" * 256,
        "ß" * 256,
        "\0",
        "..",
        "a/b",
        "A",
        "a",
        "%2e%2e",
    ]
    for name in names:
        world.cache(name, Scope(name, name), persist=True).put(item(name, name.encode()))
    found = files(world)
    assert len([each for each in found if each.suffix == ".store"]) == len(names)
    for each in found:
        assert set(each.parent.name + each.parent.parent.name) <= set("0123456789abcdef")
        assert each.name.startswith("cache-")
    restarted(world)
    for name in names:
        got = world.cache(name, Scope(name, name)).get(name)
        assert got is not None
        assert got.content.data == name.encode()


def test_a_scope_is_deleted_in_memory_and_on_disk_open_or_not(world: World) -> None:
    """Nothing of it is left, and of others nothing goes."""
    for user, project in (("ann", "p"), ("ann", "q"), ("bob", "p")):
        world.cache("one", Scope(user, project), persist=True).put(item("a", bytes(KIB)))
    restarted(world)
    world.cache("one", Scope("ann", "p"))
    world.cache("two", Scope("ann", "p")).put(item("b"))
    names, entries, freed = world.stores.delete_scope("ann", None)
    assert sorted(names) == ["one", "two"]
    assert entries == 3
    assert freed > 3 * 4096
    assert len([each for each in files(world) if each.suffix == ".store"]) == 1
    with pytest.raises(StoreNotFoundError):
        world.stores.get("one", Scope("ann", "p"))
    assert world.cache("one", Scope("bob", "p")).get("a") is not None
    assert world.cache("one", Scope("ann", "p")).get("a") is None


def test_clearing_gives_the_disk_back_and_keeps_the_options(world: World) -> None:
    """A store that is cleared is as it was opened."""
    cache = world.cache(persist=True, max_entries=3)
    cache.put(item("a", bytes(500 * KIB)))
    size = sum(each.stat().st_size for each in files(world))
    cache.clear()
    assert sum(each.stat().st_size for each in files(world)) < size // 4
    restarted(world)
    cache = world.cache()
    assert cache.get("a") is None
    for number in range(5):
        cache.put(item(str(number)))
    assert cache.figures().entry_count == 3


def test_deleting_gives_the_disk_back(world: World) -> None:
    """A file does not keep what was deleted from it."""
    cache = world.cache(persist=True)
    for number in range(64):
        cache.put(item(f"k{number}", bytes(64 * KIB)))
    size = sum(each.stat().st_size for each in files(world))
    cache.delete(Choice(prefix="k"))
    assert sum(each.stat().st_size for each in files(world)) < size // 2


def test_what_has_ended_goes_from_disk_too(world: World) -> None:
    """Unasked, when its time is over."""
    cache = world.cache(persist=True, ttl_ms=1000)
    cache.put(item("a"))
    world.clock.move(1000)
    world.stores.tend()
    restarted(world)
    assert world.cache(ttl_ms=1_000_000).page(None, 9).entries == ()


def test_a_folder_is_one_workers_at_a_time(world: World) -> None:
    """A second worker is refused, and takes nothing away; after the first has ended, it may."""
    cache = world.cache(persist=True)
    cache.put(item("a"))
    other = World(world.folder)
    with pytest.raises(UnsupportedError, match="another worker"):
        other.cache(persist=True)
    assert cache.get("a") is not None
    world.stores.close()
    assert other.cache(persist=True).get("a") is not None
    other.stores.close()


def _spoil(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_file_of_a_later_format_stays_as_it_is(world: World) -> None:
    """This version refuses what it does not know, and a later one finds it as it left it."""
    world.cache(persist=True).put(item("a"))
    world.stores.close()
    [path] = files(world)
    _spoil(path, f"PRAGMA user_version = {FORMAT + 1}")
    before = path.read_bytes()
    world.stores = world.made()
    with pytest.raises(UnsupportedError, match="format"):
        world.cache()
    assert path.read_bytes() == before


def test_a_file_that_is_none_is_refused_and_stays(world: World) -> None:
    """Garbage, and the file of another store that was put in its place, are not written to."""
    world.cache(persist=True).put(item("a"))
    world.cache("other", persist=True).put(item("secret"))
    world.stores.close()
    assert world.folder is not None
    paths = [each for each in files(world) if each.suffix == ".store"]
    contents = [each.read_bytes() for each in paths]
    paths[0].write_bytes(b"no database, but long enough to be taken for one" * 100)
    world.stores = world.made()
    refused = []
    for name in ("answers", "other"):
        try:
            world.cache(name)
        except UnsupportedError as error:
            refused.append(error.message)
    assert len(refused) == 1
    world.stores.close()
    paths[0].write_bytes(contents[1])
    world.stores = world.made()
    refused = []
    for name in ("answers", "other"):
        try:
            world.cache(name)
        except UnsupportedError as error:
            refused.append(error.message)
    assert [each.endswith("is the file of another store, and stays as it is") for each in refused] == [True]


def test_vectors_and_preferences_persist_too(world: World) -> None:
    """A vector is found after a restart as before it, and a preference is in the prompt; both within their bounds."""
    pytest.importorskip("numpy")

    def vectors() -> Any:
        return world.stores.open("v", HERE, StoreKind.VECTORS, Options(persist=True, max_entries=3)).store

    def profile() -> Any:
        return world.stores.open("p", HERE, StoreKind.PREFERENCES, Options(persist=True)).store

    def near() -> list[tuple[str, float, bytes]]:
        hits = vectors().search(Question((1.0, 0.2), None, 5))
        return [(each.key, each.score, bytes(each.content.data)) for each in hits]

    for key, numbers in (("a", (1.0, 0.0)), ("b", (0.3, 0.7)), ("c", (-1.0, 1e-3))):
        vectors().put(Item(key, Content(key.encode()), vector=numbers, tags=("t",)))
    vectors().put(Item("b", Content(b"b2"), vector=(0.5, 0.5)))
    assert vectors().put(Item("d", Content(b"d"), vector=(0.5, 0.5))).reason is not None
    profile().put(Item("language", Content(b'{"value":"German"}')))
    before = near()
    assert [each[0] for each in before] == ["a", "b", "c"]
    restarted(world)
    assert near() == before
    assert profile().prompt(["language"]) == "- language: German"
    assert [each.key for each in profile().search(Question(None, "german", 5))] == ["language"]
    assert vectors().delete(Choice(tag="t")).entries == 2
    restarted(world)
    assert [each[0] for each in near()] == ["b"]


@pytest.mark.parametrize("size", [0, 1, 16, 100, 4095])
def test_a_file_that_is_unfinished_is_an_empty_store(world: World, size: int) -> None:
    """One that ends in its first page holds nothing: it is made anew when opened, whatever lies beside it."""
    world.cache(persist=True).put(item("a"))
    world.stores.close()
    [path] = files(world)
    path.write_bytes(path.read_bytes()[:size])
    path.with_name(path.name + "-journal").write_bytes(b"left over")
    world.stores = world.made()
    cache = world.cache()
    assert cache.page(None, 9).entries == ()
    assert cache.put(item("b")).reason is None
    restarted(world)
    assert world.cache().get("b") is not None


@pytest.mark.parametrize(
    "statements", ["DROP TABLE about; DROP TABLE entries; PRAGMA user_version = 0", "DELETE FROM about"]
)
def test_a_file_without_what_it_says_of_itself_is_an_empty_store(world: World, statements: str) -> None:
    """As one is whose tables were never made, or that was made without a name."""
    world.cache(persist=True)
    world.stores.close()
    [path] = files(world)
    for each in statements.split("; "):
        _spoil(path, each)
    world.stores = world.made()
    assert world.cache().put(item("b")).reason is None
    restarted(world)
    assert world.cache().get("b") is not None


@pytest.mark.parametrize(
    "size", [0, 1, 16, 99, 100, 512, 4095, 4096, 8192, 12_288, 20_480, 24_575, "garbage", "none", "empty"]
)
def test_a_user_is_deleted_whatever_one_file_is(world: World, size: int | str) -> None:
    """A file that can't be read is deleted like the others, which are all told."""
    for name in ("one", "two", "three"):
        world.cache(name, Scope("ann", name), persist=True).put(item("a", bytes(8 * KIB)))
    world.cache("one", Scope("bob", "p"), persist=True)
    world.stores.close()
    assert world.folder is not None
    [spoilt] = _folder_of(world, Scope("ann", "two")).glob("*.store")
    if isinstance(size, int):
        spoilt.write_bytes(spoilt.read_bytes()[:size])
    elif size == "garbage":
        spoilt.write_bytes(b"no database, but long enough to be taken for one" * 200)
    elif size == "none":
        _spoil(spoilt, "DELETE FROM about WHERE name = 'store'")
    else:
        _spoil(spoilt, "DELETE FROM about")
        _spoil(spoilt, "DELETE FROM entries")
    world.stores = world.made()
    names, entries, _ = world.stores.delete_scope("ann", None)
    assert {"one", "three"} <= set(names)
    assert entries >= 2
    assert len(list(world.folder.glob("*/*/*"))) == 1
    assert world.cache("two", Scope("ann", "two"), persist=True).get("a") is None


def _folder_of(world: World, scope: Scope) -> Path:
    assert world.folder is not None
    folder = StoreFolder(world.folder)
    path = folder.file(scope, (StoreKind.CACHE, "any")).parent
    folder.close()
    return path
