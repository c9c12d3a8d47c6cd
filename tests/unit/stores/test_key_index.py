"""The index of keys: what a dictionary would say, whatever collides, grows, is split, shrinks or is refused."""

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.plugins import OutOfMemoryError
from worker.stores import key_index
from worker.stores.due import Due
from worker.stores.key_index import KeyIndex

SLOTS = 8


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "_LEAST", 4)
    monkeypatch.setattr(key_index, "_MOST", SLOTS)


names = st.builds(lambda high, low: high << 57 | low, st.integers(0, 7), st.integers(1, 6))
steps_of = st.sampled_from(["add", "add", "remove", "move", "forget", "shrink"])


def always(_place: int) -> bool:
    return True


@settings(max_examples=300)
@given(st.lists(st.tuples(steps_of, names), max_size=120))
def test_it_is_a_dictionary_of_places(steps: list[tuple[str, int]]) -> None:
    """Several places may be of one hash; each is found by whoever knows it, and by no other hash.

    Those of one parity go at once, as a segment's do: from then on none of them is there, by whatever it is asked for.
    """
    there, last, known = list[tuple[int, int]](), 0, set[int]()
    index = KeyIndex(known.__contains__)
    for step, name in steps:
        here = [each for each in there if each[0] == name]
        if step == "add" and len(here) < SLOTS // 2:  # so many of one hash are in no table
            last += 1
            index.reserve(name)
            index.add(name, last)
            there.append((name, last))
            known.add(last)
        elif step == "forget":
            going = {place for _, place in there if place % 2 == name % 2}
            known -= going
            there = [each for each in there if each[1] not in going]
            index.forget(len(going))
        elif step == "remove" and here:
            there.remove(here[0])
            index.remove(*here[0])
        elif step == "move" and here:
            last += 1
            index.move(*here[-1], last)
            known.add(last)
            there[there.index(here[-1])] = (name, last)
        elif step == "shrink":
            index.shrink()
        assert index.count == len(there)
        assert sorted(index.places()) == sorted(place for _, place in there)
        for one, place in there:
            assert index.find(one, b"", lambda _, at, place=place: at == place) == place
            assert sorted(index.places_of(one)) == sorted(at for other, at in there if other == one)
        assert index.find(name ^ 1 << 56, b"", lambda _, __: True) == 0
        assert index.places_of(name ^ 1 << 56) == []
        if there:
            assert index.near(name) in {place for _, place in there}


def test_it_gives_memory_back_and_a_refused_map_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it with the last key, and most with most of them."""
    index = KeyIndex(always)
    all_names = [(each * 0x9E3779B97F4A7C15) % 2**60 for each in range(1, 2000)]
    for place, name in enumerate(all_names, 1):
        index.reserve(name)
        index.add(name, place)
    tables = len(set(index._tables))
    assert tables > 100

    def refuse(_size: int, _what: str) -> None:
        raise OutOfMemoryError("refused")

    def fill() -> None:
        for name in range(1, 10**9, 10**6):
            index.reserve(name)
            index.add(name, 10**6)

    with monkeypatch.context() as short:
        short.setattr(key_index, "anonymous", refuse)
        with pytest.raises(OutOfMemoryError):
            fill()
    grown = index.count - len(all_names)
    for place, name in enumerate(all_names, 1):
        assert index.places_of(name) == [place]
    for place, name in enumerate(all_names, 1):
        index.remove(name, place)
    index.shrink()
    assert index.count == grown
    for _ in range(grown):
        place = next(index.places())
        name = next(each for each in range(1, 10**9, 10**6) if place in index.places_of(each))
        index.remove(name, place)
    index.shrink()
    assert index._tables == []


def test_slots_of_what_went_at_once_are_used_again() -> None:
    """However often all that is there goes so: the tables are as many as those of what is there."""
    here = [0]
    index = KeyIndex(lambda place: place >= here[0])
    for _ in range(20):
        here[0] += 1000
        index.forget(index.count)
        for place in range(here[0], here[0] + 1000):
            name = (place * 0x9E3779B97F4A7C15) % 2**60
            index.reserve(name)
            index.add(name, place)
        assert index.count == 1000
        slots = sum(each.mask + 1 for each in set(index._tables))
        assert slots <= 4 * 1000
    assert sorted(index.places()) == list(range(here[0], here[0] + 1000))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=80))
def test_what_is_due_is_told_once_and_in_time(steps: list[tuple[bool, int]]) -> None:
    """In whatever order it came."""
    due, left = Due(), dict[int, int]()
    for name, (asks, at) in enumerate(steps, 1):
        if asks:
            assert sorted(due.pop(at)) == sorted(each for each, end in left.items() if end <= at)
            left = {each: end for each, end in left.items() if end > at}
        else:
            due.add(name, at)
            left[name] = at
        assert due.next_ns == min(left.values(), default=None)


def test_ends_that_come_in_order_take_16_bytes() -> None:
    """As those of entries with one lifetime do."""
    due = Due()
    for at in range(1000):
        due.add(at + 1, at)
    assert [type(row.values) for row in due._rows] == [array]
    assert len(due._rows[0].values) * 8 == 16_000
    assert len(due.pop(899)) == 900
    assert len(due._rows[0].values) == 200
