"""Scopes: no operation of one ever shows in another, through restarts and hostile names."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.vocabulary import StoreKind
from tests.unit.stores.stores import World, item
from worker.plugins import InvalidRequestError, StoreNotFoundError
from worker.stores.base import Choice, Options, Scope

HOSTILE = [
    "a",
    "a_b",
    "b_c",
    "c",
    "",
    "A",
    "..",
    "../a",
    "a/b",
    "a\0b",
    "ä",
    "a\u0308",
    "%61",
    "*",
    "'; --",
    "aux",
    " a",
]
NAMES = st.sampled_from([each for each in HOSTILE if each]) | st.text(min_size=1, max_size=8).filter(
    lambda text: not any("\ud800" <= each <= "\udfff" for each in text)
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["open", "put", "get", "delete", "prefix", "clear", "close", "forget", "restart", "tend"]
        ),
        st.tuples(NAMES, NAMES),
        NAMES,
        st.sampled_from(["k", "k2", "x"]),
        st.sampled_from([StoreKind.CACHE, StoreKind.SESSIONS]),
    ),
    max_size=40,
)


class Model:
    """What has to be so: a dictionary for each scope and store."""

    def __init__(self) -> None:
        self.open: dict[tuple[Scope, str], StoreKind] = {}
        self.kept: dict[tuple[Scope, str, StoreKind], dict[str, bytes]] = {}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_each_scope_is_as_if_there_were_no_other(steps: list[Any]) -> None:
    """Whatever is done anywhere, every store has what was put into it, by its own pair of names, and nothing else."""
    folder = Path(tempfile.mkdtemp())
    world, model = World(folder), Model()
    try:
        for number, step in enumerate(steps):
            _do(world, model, step, b"%d" % number)
            _check(world, model)
    finally:
        world.stores.close()
        shutil.rmtree(folder)


def _do(world: World, model: Model, step: Any, value: bytes) -> None:
    what, (user, project), name, key, kind = step
    scope = Scope(user, project)
    if what == "restart":
        world.stores.close()
        world.stores = world.made()
        model.open.clear()
    elif what == "tend":
        world.stores.tend()
    elif what == "forget":
        world.stores.delete_scope(user, None if key == "k" else project)
        for each in [*model.open, *model.kept]:
            if each[0].user_id == user and (key == "k" or each[0].project_id == project):
                model.open.pop(each[:2], None)
                model.kept.pop((*each[:2], kind), None)
                for other in StoreKind:
                    model.kept.pop((*each[:2], other), None)
    elif what == "open":
        try:
            world.stores.open(name, scope, kind, Options(persist=True))
        except InvalidRequestError:
            assert model.open[scope, name] is not kind
        else:
            assert model.open.setdefault((scope, name), kind) is kind
            model.kept.setdefault((scope, name, kind), {})
    else:
        _use(world, model, what, scope, name, key, value)


def _use(world: World, model: Model, what: str, scope: Scope, name: str, key: str, value: bytes) -> None:
    try:
        store = world.stores.get(name, scope)
    except StoreNotFoundError:
        assert (scope, name) not in model.open
        return
    kept = model.kept[scope, name, model.open[scope, name]]
    if what == "put":
        assert store.put(item(key, value, tags=(key,))).evicted_entries == 0
        kept[key] = value
    elif what == "delete":
        assert store.delete(Choice(tag=key)).entries == (kept.pop(key, None) is not None)
    elif what == "prefix":
        store.delete(Choice(prefix="k"))
        for each in [each for each in kept if each.startswith("k")]:
            del kept[each]
    elif what == "clear":
        store.clear()
        kept.clear()
    elif what == "close":
        world.stores.close_store(name, scope)
        del model.open[scope, name]


def _check(world: World, model: Model) -> None:
    for (scope, name), kind in model.open.items():
        store = world.stores.get(name, scope)
        kept = model.kept[scope, name, kind]
        assert [each.key for each in store.page(None, 99).entries] == sorted(kept)
        for key, value in kept.items():
            found = store.get(key)
            assert found is not None
            assert found.content.data == value


def test_a_pair_is_no_joined_string() -> None:
    """``a_b`` and ``c`` are not ``a`` and ``b_c``, in memory and on disk."""
    folder = Path(tempfile.mkdtemp())
    world = World(folder)
    for separator in ("_", "/", ":", "\0", "-", " "):
        one, other = Scope(f"a{separator}b", "c"), Scope("a", f"b{separator}c")
        world.cache("s", one, persist=True).put(item("k", b"one"))
        assert world.cache("s", other, persist=True).get("k") is None
        world.stores.delete_scope(*other)
        found = world.stores.get("s", one).get("k")
        assert found is not None
        assert found.content.data == b"one"
    world.stores.close()
    shutil.rmtree(folder)


def test_what_is_beside_entries_adds_up() -> None:
    """Gaps and rests of all scopes' segments are in the figures of their stores, and what each knows of uses; a closed one has none."""
    world = World()
    caches = [world.stores.open("x", Scope("u", each), StoreKind.CACHE, Options()).store for each in "ab"]
    assert [each.figures().overhead_bytes for each in caches] == [0, 0]
    for number in range(40):
        caches[number % 2].put(item(f"{number:03}", b"x" * 40_000, tags=("odd",) if number % 3 else ()))
    for cache in caches:
        cache.delete(Choice(tag="odd"))
    memory = world.consumers.by_id["store:cache:x"].memory
    beside = memory.held_bytes - memory.alive_bytes
    overhead = [each.figures().overhead_bytes or 0 for each in caches]
    assert beside > 0
    assert beside - 2 <= sum(overhead) - 40 * 368 <= beside
    assert all(each > 20 * 368 for each in overhead)
    assert world.consumers.by_id["store:cache:x"].usage().overhead_bytes == beside + 40 * 368
    caches[1].close()
    assert (caches[0].figures().overhead_bytes or 0) - 20 * 368 == memory.held_bytes - memory.alive_bytes
