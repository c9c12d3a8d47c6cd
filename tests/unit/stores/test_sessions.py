"""Sessions: at most so many, for so long after their last use, and on disk where they are idle."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from protocol.vocabulary import StoreKind
from tests.unit.stores.stores import HERE, World, item
from worker.core.cancellation import CancelToken
from worker.plugins import LimitExceededError, OutOfMemoryError
from worker.stores.base import Choice, Content, Form, Options, Store
from worker.stores.files import StoreFile
from worker.stores.sessions import HISTORY_BYTES, IDLE_NS, trimmed

SECONDS = 1000
POOL = "store:sessions:chats"


@pytest.fixture(params=[False, True], ids=["memory", "folder"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path if request.param else None)
    yield world
    world.stores.close()


def pool(world: World, **options: Any) -> Store:
    return world.stores.open("chats", HERE, StoreKind.SESSIONS, Options(**options)).store


def test_at_most_so_many_and_those_used_longest_ago_go(world: World) -> None:
    """500 unless asked otherwise; being used keeps a session, being made first does not."""
    sessions = pool(world)
    for number in range(500):
        assert sessions.put(item(str(number))).evicted_entries == 0
        world.clock.move(1)
    sessions.get("0")
    assert sessions.put(item("500")).evicted_entries == 1
    assert sessions.get("1") is None
    assert sessions.get("0") is not None
    assert sessions.figures().entry_count == 500


def test_using_renews_and_not_using_ends(world: World) -> None:
    """1,800 s after its last use a session is gone, however often it was used before."""
    sessions = pool(world)
    sessions.put(item("used"))
    sessions.put(item("idle"))
    for _ in range(5):
        world.clock.move(1799 * SECONDS)
        assert sessions.get("used") is not None
    assert sessions.get("idle") is None
    world.clock.move(1800 * SECONDS)
    assert sessions.get("used") is None
    world.stores.tend()
    assert sessions.figures().held_bytes == 0


def test_history_is_bounded_in_bytes(world: World) -> None:
    """The oldest is cut off; what else a session has stays, whatever it is."""
    turns = [{"n": n, "text": "x" * 1000} for n in range(1000)]
    sessions = pool(world)
    sessions.put(item("a", orjson.dumps({"user": "ann", "history": turns})))
    found = sessions.get("a")
    assert found is not None
    kept = orjson.loads(found.content.data)
    assert kept["user"] == "ann"
    assert len(orjson.dumps(kept["history"])) <= HISTORY_BYTES
    assert kept["history"] == turns[-len(kept["history"]) :]
    assert len(kept["history"]) > 200


@pytest.mark.parametrize("value", [b'{"history":"a"}', b"[1]", b'{"other":1}', b'{"history":[]}'])
def test_what_has_no_history_stays_as_it_is(value: bytes) -> None:
    """Only a list of that name is cut, and only where it is too long."""
    assert trimmed(Content(value + b" " * 100), 50).data.strip() == value
    assert trimmed(Content(value, Form.BYTES), 1).data == value


def test_one_in_memory_alone_is_never_given_up() -> None:
    """It can't be made again: it is the floor of what the pool holds, and offered to nobody."""
    world = World()
    sessions = pool(world)
    sessions.put(item("a", bytes(100_000)))
    kind = world.consumers.by_id[POOL]
    assert kind.offers(2**30) == ()
    assert kind.holding().spare_bytes == 0
    kind.limit_changed(10, "memory is short")
    assert sessions.put(item("b", bytes(100_000))).reason is None
    assert sessions.get("a") is not None


def test_one_that_is_idle_is_on_disk_and_there_when_asked_for(tmp_path: Path) -> None:
    """Its bytes are back at the system; the first use reads them again. After a restart nothing of it is left."""
    world = World(tmp_path)
    sessions = pool(world)
    sessions.put(item("idle", b"idle" * 10_000))
    world.clock.move(IDLE_NS / 10**6 - 1000)
    sessions.put(item("busy", b"busy" * 10_000))
    kind = world.consumers.by_id[POOL]
    world.clock.move(1000)
    world.stores.tend()
    assert kind.memory.given_bytes == 40_000
    found = sessions.get("idle")
    assert found is not None
    assert found.content.data == b"idle" * 10_000
    assert kind.memory.given_bytes == 80_000
    offers = kind.offers(2**30)
    assert sum(kind.release(each, CancelToken(lambda: 0)) for each in offers) == 80_000
    assert sessions.get("busy") is not None
    assert sessions.figures().entry_count == 2
    world.stores.close()
    assert [each for each in tmp_path.glob("*/*/*") if each.is_file()] == []


def test_a_worker_that_was_killed_leaves_no_session_behind(tmp_path: Path) -> None:
    """What did not ask to persist is removed by the next worker, and never seen by it."""
    world = World(tmp_path)
    pool(world).put(item("a", b"secret"))
    world.stores._folder.close()  # as a kill does
    world.stores._folder = None
    other = World(tmp_path)
    assert pool(other).get("a") is None
    assert b"secret" not in b"".join(each.read_bytes() for each in tmp_path.rglob("*") if each.is_file())
    other.stores.close()


def test_one_that_persists_is_there_after_a_restart(tmp_path: Path) -> None:
    """Where that is asked for."""
    world = World(tmp_path)
    pool(world, persist=True).put(item("a", b"1"))
    world.stores.close()
    world.stores = world.made()
    found = pool(world).get("a")
    assert found is not None
    assert found.content.data == b"1"
    world.stores.close()


@pytest.mark.parametrize("size", [HISTORY_BYTES, 300 * 1024])
def test_a_message_larger_than_a_history_is_refused_in_words(world: World, size: int) -> None:
    """It is not lost silently: the session stays as it was, and an older message that is too long is cut off as any."""
    sessions = pool(world)
    sessions.put(item("a", b'{"history":["first"]}'))
    with pytest.raises(LimitExceededError, match="newest message") as refused:
        sessions.put(item("a", orjson.dumps({"history": ["first", "x" * size]})))
    assert refused.value.details["limit_bytes"] == HISTORY_BYTES
    found = sessions.get("a")
    assert found is not None
    assert orjson.loads(found.content.data) == {"history": ["first"]}
    sessions.put(item("a", orjson.dumps({"history": ["x" * size, "last"]})))
    found = sessions.get("a")
    assert found is not None
    assert orjson.loads(found.content.data) == {"history": ["last"]}


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "closed"])
def test_a_use_renews_a_session_through_a_restart(tmp_path: Path, *, killed: bool) -> None:
    """It is told to the file beside everything else, many uses at once: a get by itself writes nothing."""
    world = World(tmp_path)
    sessions = pool(world, persist=True, max_entries=2)
    for each in ("used", "idle"):
        sessions.put(item(each))
    world.clock.move(1700 * SECONDS)
    for _ in range(3):
        assert sessions.get("used") is not None
    if killed:
        world.stores.tend()
        sessions._file._close()  # as a kill does
        world.stores._folder.close()
    else:
        world.stores.close()
    after = World(tmp_path)
    after.clock.ns = world.clock.ns
    after.clock.move(200 * SECONDS)
    again = pool(after)
    assert again.get("idle") is None
    assert again.get("used") is not None
    after.clock.move(1700 * SECONDS)
    assert again.get("used") is not None
    after.stores.close()


def test_uses_that_the_disk_does_not_take_are_told_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing fails for want of that."""
    world = World(tmp_path)
    sessions = pool(world, persist=True)
    sessions.put(item("a"))
    world.clock.move(1700 * SECONDS)
    sessions.get("a")
    told: list[dict[str, int]] = []

    def full(_file: StoreFile, used: dict[str, int]) -> None:
        told.append(dict(used))
        if len(told) == 1:
            raise OutOfMemoryError("full")

    monkeypatch.setattr(StoreFile, "note_uses", full)
    world.stores.tend()
    world.stores.tend()
    world.stores.tend()
    assert [list(each) for each in told] == [["a"], ["a"]]
    world.stores.close()


def test_a_session_that_is_not_to_last_is_kept_in_memory_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up to nothing until the disk takes it, which is tried with one; one that is to last is refused, and says why."""
    world, tried = World(tmp_path), list[list[str]]()
    pool: Any = world.stores.open("chats", HERE, StoreKind.SESSIONS, Options()).store
    lasting: Any = world.stores.open("kept", HERE, StoreKind.SESSIONS, Options(persist=True)).store
    kind, change = world.consumers.by_id["store:sessions:chats"], StoreFile.change
    assert pool.put(item("a", b'"first"')).reason is None

    def full(_file: StoreFile, writes: Any = (), deletes: Any = ()) -> None:
        if writes := list(writes):
            tried.append([each.key for each in writes])
            raise OutOfMemoryError("the disk takes no more")
        change(_file, writes, deletes)

    with monkeypatch.context() as patch:
        patch.setattr(StoreFile, "change", full)
        assert lasting.put(item("a", b'"x"')).reason == "the disk takes no more"
        assert pool.put(item("a", b'"second"')).reason is None
        assert pool.put(item("b", b'"new"')).reason is None
        assert kind.offers(10**9) == () and kind.holding().spare_bytes == 0
        world.clock.move(120_000)
        tried.clear()
        world.stores.tend()
        assert len(tried) == 1 and len(tried[0]) == 1
        for key, data in (("a", b'"second"'), ("b", b'"new"')):
            assert pool._table.get(key).is_warm
            assert pool.get(key).content.data == data
    world.stores.tend()
    assert kind.offers(10**9) != ()
    world.clock.move(120_000)
    world.stores.tend()
    assert not pool._table.get("a").is_warm
    assert [pool.get(key).content.data for key in "ab"] == [b'"second"', b'"new"']
    assert kind.held_bytes == sum(each.held_bytes for each in pool._table)
    assert pool.delete(Choice(key="a")).entries == 1 and pool.get("a") is None
    world.stores.close()
