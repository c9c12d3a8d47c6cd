"""Stores of vectors and of preferences: what they take and find, that they refuse rather than drop, and what they give back."""

import sys
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.vocabulary import StoreKind, VectorMetric
from tests.unit.stores.stores import HERE, World
from worker.plugins import InvalidRequestError, LimitExceededError, OutOfMemoryError, UnsupportedError
from worker.stores import vector_rows
from worker.stores.base import Choice, Content, Form, Item, Options, Question, Scope, Store

VECTORS, PREFERENCES = StoreKind.VECTORS, StoreKind.PREFERENCES


def opened(world: World, kind: StoreKind, name: str = "x", scope: Scope = HERE, **options: Any) -> Store:
    """Open a store."""
    return world.stores.open(name, scope, kind, Options(**options)).store


def vector(key: str, *numbers: float, value: Any = None, **more: Any) -> Item:
    """Return an entry with a vector."""
    return Item(key, Content(orjson.dumps(value)), vector=numbers, **more)


def said(key: str, value: Any, **more: Any) -> Item:
    """Return a preference."""
    return Item(key, Content(orjson.dumps({"value": value} | more)))


def near(store: Store, *numbers: float, limit: int = 10, tags: tuple[str, ...] = ()) -> list[str]:
    """Return the keys nearest to a vector."""
    return [each.key for each in store.search(Question(numbers, None, limit, tags))]


def about(store: Store, text: str, limit: int = 10, tags: tuple[str, ...] = ()) -> list[tuple[str, float]]:
    """Return the keys that a text finds, and their scores."""
    return [(each.key, each.score) for each in store.search(Question(None, text, limit, tags))]


# ---- vectors ----


def test_what_is_near_is_found_with_its_content_and_a_replaced_one_where_it_is_now() -> None:
    """An entry has one vector: the last that was put."""
    store = opened(World(), VECTORS)
    store.put(vector("a", 1, 0, value={"n": 1}))
    store.put(vector("b", 0, 1, value=2))
    (first, second) = store.search(Question((1, 0.1), None, 5))
    assert (first.key, orjson.loads(first.content.data), second.key) == ("a", {"n": 1}, "b")
    store.put(vector("a", -1, 0, value={"n": 3}))
    assert near(store, 1, 0.1) == ["b", "a"]
    assert store.figures().entry_count == 2


def test_tags_choose_among_them() -> None:
    """Only entries that have all of the tags are found, however near others are."""
    store = opened(World(), VECTORS)
    for key, tags in (("a", ("x", "y")), ("b", ("x",)), ("c", ())):
        store.put(vector(key, 1, 0, tags=tags))
    assert near(store, 1, 0, tags=("x",)) == ["a", "b"]
    assert near(store, 1, 0, tags=("x", "y")) == ["a"]
    assert near(store, 1, 0, tags=("x", "never")) == []


def test_what_has_ended_is_not_found() -> None:
    """A lifetime holds for what is found, too."""
    world = World()
    store = opened(world, VECTORS)
    store.put(vector("a", 1, 0, ttl_ms=100))
    store.put(vector("b", 1, 0))
    world.clock.move(101)
    assert near(store, 1, 0) == ["b"]


def test_dimensions_are_an_options_or_the_first_ones_and_stay() -> None:
    """A wrong one is refused and changes nothing; an empty store takes others."""
    world = World()
    store = opened(world, VECTORS, dimensions=2)
    with pytest.raises(
        InvalidRequestError, match=r"data.vector: it has 3 dimensions, and the store's vectors have 2"
    ):
        store.put(vector("a", 1, 2, 3))
    other = opened(world, VECTORS, "other")
    assert near(other, 1, 2) == []
    other.put(vector("a", 1, 2, 3))
    for wrong in (lambda: other.put(vector("a", 1, 2)), lambda: near(other, 1)):
        with pytest.raises(InvalidRequestError, match="have 3"):
            wrong()
    assert near(other, 1, 2, 3) == ["a"]
    with pytest.raises(InvalidRequestError, match=r"data.options.dimensions.*clear it first"):
        opened(world, VECTORS, "other", dimensions=2)
    opened(world, VECTORS, "other", dimensions=3)
    other.clear()
    opened(world, VECTORS, "other", dimensions=1, metric=VectorMetric.L2)
    other.put(vector("b", 1))
    assert near(other, 1) == ["b"]


@pytest.mark.parametrize("numbers", [(), (float("nan"), 1.0), (float("inf"), 0.0), (0.0, 0.0), (1e300, 0.0)])
def test_a_vector_that_can_not_be_changes_nothing(numbers: tuple[float, ...]) -> None:
    """The error names the field; what was there stays, and is counted as before."""
    store = opened(World(), VECTORS, dimensions=2)
    store.put(vector("a", 1, 0))
    before = store.figures()
    with pytest.raises(InvalidRequestError, match=r"^data\.vector: "):
        store.put(vector("a", *numbers))
    with pytest.raises(InvalidRequestError, match=r"^data\.vector: "):
        store.put(Item("a", Content(b"1")))
    assert store.figures() == before
    assert near(store, 1, 0) == ["a"]


def test_it_refuses_what_does_not_fit_and_drops_nothing() -> None:
    """Above its entries or bytes a new one is not stored, and the reply says why; a replacement is."""
    world = World()
    few = opened(world, VECTORS, "few", max_entries=2)
    small = opened(world, VECTORS, "small", max_bytes=1200)
    for key in "ab":
        assert few.put(vector(key, 1, 0)).reason is None
        assert small.put(vector(key, 1, 0)).reason is None
    assert "max_entries is 2" in str(few.put(vector("c", 1, 0)).reason)
    assert "max_bytes, 1200" in str(small.put(vector("c", 1, 0, value="x" * 700)).reason)
    with pytest.raises(LimitExceededError):
        small.put(vector("c", 1, 0, value="x" * 2000))
    assert few.put(vector("a", 0, 1)).reason is None
    assert near(few, 1, 0) == ["b", "a"]
    assert near(small, 1, 0) == ["a", "b"]
    opened(world, VECTORS, "few", max_entries=3)
    assert few.put(vector("c", 1, 0)).reason is None


def test_five_thousand_by_default() -> None:
    """A store that says nothing has this bound."""
    store = opened(World(), VECTORS)
    for number in range(5000):
        assert store.put(vector(str(number), number + 1)).reason is None
    assert "5000" in str(store.put(vector("more", 1)).reason)


def test_under_pressure_it_does_not_grow_and_gives_up_nothing() -> None:
    """What it holds is its floor: a limit refuses more, and no plan counts on it."""
    world = World()
    store = opened(world, VECTORS)
    store.put(vector("a", 1, 0))
    consumer = world.consumers.by_id["store:vectors:x"]
    assert consumer.holding().spare_bytes == 0
    assert consumer.offers(10**9) == ()
    consumer.limit_changed(consumer.holding().held_bytes, "pressure")
    assert "memory is short" in str(store.put(vector("b", 1, 0)).reason)
    consumer.limit_changed(None, "calm")
    assert store.put(vector("b", 1, 0)).reason is None
    assert near(store, 1, 0) == ["a", "b"]


@pytest.mark.skipif(sys.platform != "linux", reason="counts the process's pages as Linux does")
def test_replacing_takes_no_more_and_deleting_gives_back_to_the_system() -> None:
    """As the system counts this process: 40 MB of vectors are replaced in place, and gone after most are deleted."""
    from worker.telemetry.process_memory import ProcessMemory

    resident = ProcessMemory().resident_bytes
    store = opened(World(), VECTORS, max_bytes=2**30)
    rows = np.random.default_rng(1).standard_normal((500, 40_000)).astype(np.float32)
    store.put(Item("0", Content(b"1"), vector=rows[0]))
    start = resident() or 0
    for _ in range(3):
        for number, row in enumerate(rows):
            store.put(Item(f"{number:04}", Content(b"1"), vector=row))
    full = resident() or 0
    assert 38_000_000 <= full - start <= 46_000_000
    freed = sum(store.delete(Choice(prefix=f"{number:04}")).bytes for number in range(500) if number % 10)
    assert freed >= 450 * 80_000
    assert full - (resident() or 0) >= 0.95 * freed
    cleared = store.clear()
    assert cleared.returned_bytes >= 0.97 * 50 * 80_000
    assert store.figures().held_bytes == 0


def test_each_kind_says_which_can_be_searched_how() -> None:
    """Asked in another way, or a kind that is not searched at all: the error names those that are."""
    world = World()
    question = Question((1.0,), None, 1)
    with pytest.raises(
        UnsupportedError,
        match="vectors and documents are, by a vector, those of kinds preferences and documents, by a text, and those of kind kv, by tokens",
    ):
        world.cache().search(question)
    with pytest.raises(UnsupportedError, match="preferences and documents are searched by a text"):
        opened(world, VECTORS, "v").search(Question(None, "a", 1))
    with pytest.raises(UnsupportedError, match="vectors and documents are searched by a vector"):
        opened(world, PREFERENCES, "p").search(question)


def test_without_numpy_the_error_says_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is opened, and all else works."""
    world = World()
    for name in ("vectors", "vector_index", "vector_rows"):
        monkeypatch.delitem(sys.modules, f"worker.stores.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(UnsupportedError, match=r"numpy.*memory-worker\[stores\]"):
        opened(world, VECTORS)
    assert world.consumers.by_id == {}
    opened(world, PREFERENCES).put(said("a", 1))


def test_where_the_system_has_no_memory_for_it_nothing_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so; what was there is found, and the store is as it was, also an empty one."""

    def refuse(size: int, what: str) -> None:
        raise OutOfMemoryError(f"the system refused a map of {size} bytes for {what}")

    monkeypatch.setattr(vector_rows, "BLOCK_BYTES", 1)  # so that each row has a map of its own
    store, empty = opened(World(), VECTORS, dimensions=2), opened(World(), VECTORS)
    store.put(vector("a", 1, 0))
    before = store.figures()
    monkeypatch.setattr(vector_rows, "anonymous", refuse)
    for refused in (store, empty):
        with pytest.raises(OutOfMemoryError, match="refused a map"):
            refused.put(vector("b", 1, 0))
    assert store.figures() == before
    assert near(store, 1, 0) == ["a"]
    assert (empty.figures().held_bytes, empty.figures().entry_count) == (0, 0)
    monkeypatch.undo()
    assert empty.put(vector("b", 1)).reason is None


# ---- preferences ----


@pytest.mark.parametrize(
    "content",
    [
        Content(b'"dark"'),
        Content(b"{}"),
        Content(b'{"value": 1, "extra": 2}'),
        Content(b'{"value": 1, "description": 2}'),
        Content(b'{"value": 1, "timestamp": true}'),
        Content(b'{"value": 1, "timestamp": 1.5}'),
        Content(b'{"value": 1}', Form.BYTES),
    ],
)
def test_what_is_no_preference_is_refused(content: Content) -> None:
    """The error names the field and says what a preference is."""
    store = opened(World(), PREFERENCES)
    with pytest.raises(InvalidRequestError, match=r"^data\.value"):
        store.put(Item("a", content))
    assert store.figures().entry_count == 0


def test_a_text_finds_those_that_have_its_words() -> None:
    """By the share of its words: a word inside another counts half, none is not found, and equal ones are by key."""
    store = opened(World(), PREFERENCES)
    store.put(said("language", "Deutsch", description="for all answers"))
    store.put(said("languages spoken", ["Deutsch", "Français"]))
    store.put(said("theme", "dark"))
    assert about(store, "DEUTSCH") == [("language", 1.0), ("languages spoken", 1.0)]
    assert about(store, "which language") == [("language", 0.5), ("languages spoken", 0.25)]
    assert about(store, "français deutsch!") == [("languages spoken", 1.0), ("language", 0.5)]
    assert about(store, "deutsch", limit=1) == [("language", 1.0)]
    assert about(store, "nothing") == about(store, "?!") == []


def test_a_prompt_has_a_line_for_each_and_no_value_can_add_one() -> None:
    """Texts are as they are unless they have what is no text of one line: then they are JSON."""
    store = opened(World(), PREFERENCES)
    values = {"a": "dark", "b": 3, "c": "two\nlines", "d": "", "e": {"x": [None]}, "f": " padded "}
    for key, value in values.items():
        store.put(said(key, value))
    store.put(said("g\n- a: light", True, description="line\r\nbreak", timestamp=5))
    text = store.prompt([*values, "g\n- a: light", "gone"])
    assert text == (
        '- a: dark\n- b: 3\n- c: "two\\nlines"\n- d: ""\n- e: {"x":[null]}\n- f: " padded "\n'
        '- "g\\n- a: light": true ("line\\r\\nbreak")'
    )
    assert World().cache().prompt(["a"]) is None


def test_they_are_never_given_up_and_stay_small() -> None:
    """They are a floor that no limit lowers; above their bounds a new one is refused."""
    world = World()
    store = opened(world, PREFERENCES, max_entries=2)
    store.put(said("a", 1))
    consumer = world.consumers.by_id["store:preferences:x"]
    assert (consumer.holding().spare_bytes, consumer.offers(10**6)) == (0, ())
    consumer.limit_changed(0, "pressure")
    assert store.put(said("b", 2)).reason is None
    assert "max_entries is 2" in str(store.put(said("c", 3)).reason)
    assert store.limit_bytes == 2**20


# ---- scopes ----

PARTS = st.sampled_from(["a", "a_b", "b_c", "c", "a/..", "ä"])
SCOPES = st.builds(Scope, PARTS, PARTS)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "delete", "clear"]), SCOPES, st.sampled_from("klm"), st.integers(1, 9)
    ),
    max_size=30,
)


@settings(max_examples=80, deadline=None)
@given(STEPS, st.sampled_from([VECTORS, PREFERENCES]))
def test_nothing_of_a_scope_shows_in_another(
    steps: list[tuple[str, Scope, str, int]], kind: StoreKind
) -> None:
    """Whatever is done, each scope finds and lists what was put in it, and nothing else."""
    world = World()
    model: dict[Scope, dict[str, int]] = {}
    for step, scope, key, number in steps:
        store = opened(world, kind, scope=scope)
        there = model.setdefault(scope, {})
        if step == "put":
            one = vector(key, number, 1) if kind is VECTORS else said(key, f"word{number}")
            assert store.put(one).reason is None
            there[key] = number
        elif step == "delete":
            assert store.delete(Choice(key=key)).entries == (there.pop(key, None) is not None)
        else:
            store.clear()
            there.clear()
        for other, has in model.items():
            seen = opened(world, kind, scope=other)
            assert [each.key for each in seen.page(None, 10).entries] == sorted(has)
            if kind is VECTORS:
                assert sorted(near(seen, 1, 1)) == sorted(has)
            else:
                found = {key for number in set(has.values()) for key, _ in about(seen, f"word{number}")}
                assert found == set(has)
            assert (seen.figures().held_bytes > 0) == bool(has)
