"""Vectors with a file: they leave memory for the price of reading them back, and are the same when they are searched again."""

import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.vocabulary import StoreKind, VectorMetric
from tests.e2e.process import PATIENCE_SECONDS, eventually
from tests.unit.stores.stores import HERE, World
from worker.plugins import CancelToken, InvalidRequestError, OutOfMemoryError
from worker.stores.base import Choice, Content, Item, Options, Question, Scope, Store
from worker.stores.files import StoreFile

DIMENSIONS = 16
CONSUMER = "store:vectors:x"


def opened(world: World, scope: Scope = HERE, **options: Any) -> Store:
    """Open a persistent store."""
    return world.stores.open(
        "x", scope, StoreKind.VECTORS, Options(persist=True) if not options else Options(**options)
    ).store


def restarted(world: World) -> World:
    """End the worker, and begin another one on the same folder."""
    world.stores.close()
    world.stores = world.made()
    return world


def vectors(count: int, seed: int = 1) -> Any:
    """Return random vectors."""
    return np.random.default_rng(seed).standard_normal((count, DIMENSIONS))


def fill(store: Store, rows: Any) -> None:
    """Put vectors by their numbers."""
    for number, row in enumerate(rows):
        assert (
            store.put(
                Item(f"{number:03}", Content(b"%d" % number), vector=row, tags=(f"t{number % 3}",))
            ).reason
            is None
        )


def found(
    store: Store, vector: Any, limit: int = 5, tags: tuple[str, ...] = ()
) -> list[tuple[str, float, bytes]]:
    """Return the nearest, with scores and contents."""
    return [
        (each.key, each.score, bytes(each.content.data))
        for each in store.search(Question(vector, None, limit, tags))
    ]


def release(world: World, consumer: str = CONSUMER) -> int:
    """Have the stores give back what they offer, as a plan does."""
    there, token = world.consumers.by_id.get(consumer), CancelToken(lambda: 0)
    return 0 if there is None else sum(there.release(offer, token) for offer in there.offers(10**9))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Return stores with a folder."""
    made = World(tmp_path / "stores")
    yield made
    made.stores.close()


def test_no_other_store_waits_while_vectors_leave_memory(world: World) -> None:
    """Giving many back takes long, and waits for who searches them; whoever asked for the room has it when they are gone."""
    store, other = opened(world, persist=True), opened(world, Scope("somebody", "else"))
    fill(store, vectors(20))
    fill(other, vectors(1))
    leaving = store._vectors
    assert leaving is not None
    released: list[int] = []
    with leaving._lock:  # as a search has it
        releasing = threading.Thread(target=lambda: released.append(release(world)))
        releasing.start()
        eventually(lambda: store._vectors is None, "vectors that are given up")
        asking = threading.Thread(target=lambda: found(other, vectors(1)[0]), daemon=True)
        asking.start()
        asking.join(PATIENCE_SECONDS)
        assert not asking.is_alive()
        assert (releasing.is_alive(), released) == (True, [])
    releasing.join(PATIENCE_SECONDS)
    assert released[0] > 0
    assert leaving.search(vectors(1)[0], 1) is None
    assert len(found(store, vectors(1)[0])) == 5


@pytest.mark.parametrize("metric", list(VectorMetric))
def test_after_a_restart_they_are_found_to_the_bit(world: World, metric: VectorMetric) -> None:
    """Scores, contents and tags are what they were; the metric is the one that it was opened with."""
    rows = vectors(200)
    store = opened(world, persist=True, metric=metric)
    fill(store, rows)
    before = found(store, rows[7]), found(store, rows[8], tags=("t1",))
    again = opened(restarted(world))
    assert (found(again, rows[7]), found(again, rows[8], tags=("t1",))) == before


def test_nothing_is_read_before_it_is_searched(world: World) -> None:
    """A store that is opened is cold, and takes no memory for vectors and contents until it is asked."""
    rows = vectors(300)
    fill(opened(world), rows)
    warm = world.consumers.by_id[CONSUMER].holding().held_bytes
    store = opened(restarted(world))
    cold = store.figures().held_bytes
    assert warm - cold >= 300 * (2 * DIMENSIONS + 8)
    found(store, rows[0])
    assert store.figures().held_bytes > cold


def test_a_plan_gets_them_for_the_price_of_reading_back(world: World) -> None:
    """All vectors of a scope go at once; they are offered at a price, counted while they are there, and come back by themselves."""
    rows = vectors(300)
    store = opened(world)
    fill(store, rows)
    before = found(store, rows[3])
    consumer = world.consumers.by_id[CONSUMER]
    held = consumer.holding()
    assert held.spare_bytes >= 300 * (2 * DIMENSIONS + 8)
    assert all(offer.cost_ms > 0 for offer in consumer.offers(10**9))
    freed = release(world)
    assert freed == held.held_bytes - consumer.holding().held_bytes > 300 * (2 * DIMENSIONS + 8)
    assert consumer.holding().spare_bytes == 0
    assert found(store, rows[3]) == before
    assert consumer.holding().spare_bytes > 0
    assert store.figures().evictions > 0


def test_changes_while_it_is_cold_are_found_when_it_is_read_back(world: World) -> None:
    """Puts, replacements and deletes need none of the vectors in memory."""
    rows = vectors(50)
    store = opened(world)
    fill(store, rows)
    release(world)
    cold = store.figures().held_bytes
    store.put(Item("new", Content(b"new"), vector=rows[3] * 5))
    store.put(Item("004", Content(b"other"), vector=-rows[3]))
    store.delete(Choice(key="003"))
    with pytest.raises(InvalidRequestError, match="have 16"):
        store.put(Item("bad", Content(b"1"), vector=[1.0]))
    assert store.figures().held_bytes < cold + 10_000
    keys = [key for key, _, _ in found(store, rows[3], 60)]
    assert (keys[0], keys[-1], len(keys)) == ("new", "004", 50)
    assert "003" not in keys


def test_where_memory_has_no_room_for_them_they_are_read_for_each_search(world: World) -> None:
    """A limit that is too small for the vectors changes no answer."""
    rows = vectors(50)
    store = opened(world)
    fill(store, rows)
    before = found(store, rows[3])
    world.consumers.by_id[CONSUMER].limit_changed(1000, "pressure")
    release(world)
    assert found(store, rows[3]) == before
    assert world.consumers.by_id[CONSUMER].holding().spare_bytes < 50
    assert store.put(Item("new", Content(b"1"), vector=rows[3])).reason is None
    assert [key for key, _, _ in found(store, rows[3], 2)] == ["003", "new"]


def test_dimensions_and_metric_hold_through_a_restart(world: World) -> None:
    """Another one is refused before anything is read; an emptied store takes others."""
    fill(opened(world), vectors(3))
    restarted(world)
    for wrong in ({"dimensions": 3}, {"metric": VectorMetric.L2}):
        with pytest.raises(InvalidRequestError, match="clear it first"):
            opened(world, persist=True, **wrong)
    store = opened(world)
    with pytest.raises(InvalidRequestError, match="have 16"):
        store.search(Question([1.0], None, 1))
    assert store.delete(Choice(prefix="0")).entries == 3
    assert found(store, [1.0]) == []
    store.put(Item("a", Content(b"1"), vector=[1.0]))
    assert [key for key, _, _ in found(opened(restarted(world)), [2.0])] == ["a"]


def test_a_full_disk_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be written is not found either, warm or cold, and what it would have replaced is."""
    rows = vectors(10)
    store = opened(world)
    fill(store, rows)
    before = found(store, rows[3], 20)

    def full(*_: Any) -> None:
        raise OutOfMemoryError("the file system takes no more")

    for state in ("warm", "cold"):
        with monkeypatch.context() as patch:
            patch.setattr(StoreFile, "change", full)
            for key in ("003", "new"):
                assert (
                    store.put(Item(key, Content(b"x"), vector=rows[4])).reason
                    == "the file system takes no more"
                )
            with pytest.raises(OutOfMemoryError):
                store.delete(Choice(key="003"))
        assert found(store, rows[3], 20) == before, state
        release(world)


def test_searches_beside_a_plan_that_takes_them_find_everything() -> None:
    """However often the vectors leave memory amid a search, each answer is whole."""
    folder = Path(tempfile.mkdtemp())
    world, rows = World(folder), vectors(400)
    store = opened(world)
    fill(store, rows)
    wanted = [found(store, rows[number], 3) for number in range(8)]
    wrong: list[Any] = []
    done = threading.Event()

    def search(number: int) -> None:
        for _ in range(25):
            got = found(store, rows[number], 3)
            if got != wanted[number]:
                wrong.append(got)

    def take() -> None:
        while not done.is_set():
            release(world)

    taking = threading.Thread(target=take)
    searching = [threading.Thread(target=search, args=(number,)) for number in range(8)]
    for each in (taking, *searching):
        each.start()
    for each in searching:
        each.join()
    done.set()
    taking.join()
    world.stores.close()
    shutil.rmtree(folder)
    assert wrong == []


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "delete", "clear", "restart", "release", "forget"]),
        st.sampled_from([Scope("a", "b_c"), Scope("a_b", "c"), Scope("../a", "b\0")]),
        st.sampled_from("klmn"),
        st.integers(0, 2),
    ),
    max_size=25,
)
ROWS = vectors(3, 5)


class Scopes:
    """Stores of several scopes, and what each is to find."""

    def __init__(self, folder: Path, kind: StoreKind) -> None:
        self.world = World(folder)
        self.kind = kind
        self.has: dict[Scope, dict[str, int]] = {}

    def store(self, scope: Scope) -> Store:
        return self.world.stores.open("x", scope, self.kind, Options(persist=True)).store

    def do(self, step: str, scope: Scope, key: str, number: int) -> None:
        there = self.has.setdefault(scope, {})
        if step == "put":
            vector = ROWS[number] if self.kind is StoreKind.VECTORS else None
            content = Content(b'{"value": "word%d"}' % number)
            assert self.store(scope).put(Item(key, content, vector=vector)).reason is None
            there[key] = number
        elif step == "delete":
            assert self.store(scope).delete(Choice(key=key)).entries == (there.pop(key, None) is not None)
        elif step == "restart":
            restarted(self.world)
        elif step == "release":
            release(self.world, consumer=f"store:{self.kind}:x")
        else:
            there.clear()
            if step == "clear":
                self.store(scope).clear()
            else:
                self.world.stores.delete_scope(*scope)

    def check(self) -> None:
        for scope, has in self.has.items():
            for number, row in enumerate(ROWS):
                if self.kind is StoreKind.VECTORS:
                    nearest = self.store(scope).search(Question(row, None, 9))
                    assert {each.key for each in nearest} == set(has)
                    keys = [each.key for each in nearest if each.score > 0.999]
                else:
                    keys = [each.key for each in self.store(scope).search(Question(None, f"word{number}", 9))]
                assert keys == sorted(key for key, put in has.items() if put == number)


@settings(max_examples=25, deadline=None)
@given(STEPS, st.sampled_from([StoreKind.VECTORS, StoreKind.PREFERENCES]))
def test_nothing_of_a_scope_shows_in_another_through_restarts(steps: list[Any], kind: StoreKind) -> None:
    """Whatever is put, deleted, taken from memory and read back: a scope finds what was put in it, and nothing else."""
    folder = Path(tempfile.mkdtemp())
    scopes = Scopes(folder, kind)
    try:
        for step in steps:
            scopes.do(*step)
            scopes.check()
    finally:
        scopes.world.stores.close()
        shutil.rmtree(folder)


def test_a_file_of_the_first_format_is_renewed(tmp_path: Path) -> None:
    """Its vectors were by their largest component in float16: they are found as they were, and put beside new ones."""
    world = World(tmp_path)
    rows, zeros = vectors(40), np.zeros(DIMENSIONS)
    store = opened(world, persist=True, metric=VectorMetric.L2)
    fill(store, [*rows, zeros])
    world.stores.close()
    [path] = tmp_path.rglob("*.store")
    with closing(sqlite3.connect(path)) as connection, connection:
        for number, row in enumerate([*rows, zeros]):
            top = np.abs(row).max()
            kept = (row / top if top else row).astype("<f2")
            old = np.array([top, np.linalg.norm(row)], "<f4").tobytes() + kept.tobytes()
            connection.execute("UPDATE entries SET vector = ? WHERE key = ?", (old, f"{number:03}".encode()))
        connection.execute("PRAGMA user_version = 1")
    world.stores = world.made()
    for _ in range(2):
        store = opened(world, persist=True)
        found = store.search(Question(rows[7], None, 41))
        distances = {f"{n:03}": -float(np.linalg.norm(row - rows[7])) for n, row in enumerate([*rows, zeros])}
        assert (found[0].key, len(found)) == ("007", 41)
        assert all(each.score == pytest.approx(distances[each.key], abs=5e-3) for each in found)
        restarted(world)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
