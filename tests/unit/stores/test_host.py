"""``host.stores``: caches and sessions as a plugin uses them."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from tests.unit.stores.stores import World
from worker.plugins import Cache, LimitExceededError, Sessions, Usage
from worker.stores.base import Scope
from worker.stores.host import HostStores

ANN, BOB = ("ann", "p"), ("bob", "p")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.stores.close()


def cache(world: World, **options: Any) -> Cache:
    return HostStores(world.stores).cache("answers", **options)


def sessions(world: World, **options: Any) -> Sessions:
    return HostStores(world.stores).sessions("chats", **options)


def test_what_is_made_is_made_once_and_priced_by_what_it_took(world: World) -> None:
    """The second asks and gets a copy: changing that changes nothing."""
    answers, made = cache(world), []

    def make() -> dict[str, Any]:
        made.append(1)
        threading.Event().wait(0.02)
        return {"list": [1, "ä", None]}

    first = answers.get_or_make(ANN, "k", make)
    first["list"].append("mine")
    second = answers.get_or_make(ANN, "k", make)
    assert second == {"list": [1, "ä", None]}
    assert len(made) == 1
    figures = world.stores.stats("answers", Scope(*ANN))
    assert 20 <= figures.saved_ms < 20_000
    assert answers.get_or_make(BOB, "k", lambda: 2) == 2


def test_who_asks_for_the_same_waits_and_others_do_not(world: World) -> None:
    """Made once, however many ask at the same time; another key is made meanwhile."""
    answers, made, go_on = cache(world), [], threading.Event()

    def make() -> int:
        made.append(1)
        go_on.wait()
        return 5

    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(answers.get_or_make, ANN, "k", make) for _ in range(4)]
        assert answers.get_or_make(ANN, "other", lambda: 6) == 6
        go_on.set()
        assert [each.result() for each in asked] == [5] * 4
    assert len(made) == 1


def test_what_fails_to_be_made_is_tried_by_the_next(world: World) -> None:
    """Nothing is put, and nobody is left waiting."""
    answers = cache(world)

    def fail() -> None:
        raise KeyError("made nothing")

    with pytest.raises(KeyError):
        answers.get_or_make(ANN, "k", fail)
    assert answers.get(ANN, "k") is None
    assert answers.get_or_make(ANN, "k", lambda: b"\0bytes") == b"\0bytes"
    assert answers.get(ANN, "k") == b"\0bytes"


def test_what_has_no_place_is_returned_all_the_same(world: World) -> None:
    """A cache that is too small costs time, not answers; put says so."""
    answers = cache(world, bytes="64KiB")
    assert answers.get_or_make(ANN, "k", lambda: "x" * 100_000) == "x" * 100_000
    assert answers.get(ANN, "k") is None
    with pytest.raises(LimitExceededError):
        answers.put(ANN, "k", "x" * 100_000)


def test_bytes_bound_all_scopes_together(world: World) -> None:
    """The cheapest of all goes, whoever's it is."""
    answers = cache(world, bytes=100_000)
    for number in range(20):
        answers.put((f"u{number}", "p"), "k", b"x" * 9000, cost_ms=100 - number)
    assert world.consumers.by_id["store:cache:answers"].holding().held_bytes <= 100_000
    left = [number for number in range(20) if answers.get((f"u{number}", "p"), "k") is not None]
    assert 8 <= len(left) <= 11


def test_reading_opens_nothing_but_what_is_on_disk(world: World) -> None:
    """After a restart a persistent cache answers; a scope that nothing was put into is not opened."""
    answers = cache(world, persist=True)
    assert answers.get(ANN, "k") is None
    assert answers.delete(ANN, prefix="k") == 0
    assert world.stores.find("answers", Scope(*ANN)) is None
    answers.put(ANN, "k", 1, tags=("t",))
    world.stores.close()
    world.stores = world.made()
    answers = cache(world, persist=True)
    assert answers.get(ANN, "k") == 1
    assert answers.delete(ANN, tag="t") == 1
    with pytest.raises(ValueError, match="exactly one"):
        answers.delete(ANN)


def test_values_are_json_or_bytes(world: World) -> None:
    """What can be neither is a TypeError, and nothing is put."""
    answers = cache(world)
    with pytest.raises(TypeError):
        answers.put(ANN, "k", object())
    assert answers.put(ANN, "k", None)
    assert answers.get_or_make(ANN, "k", lambda: 1) is None


def test_a_session_is_kept_when_its_use_ends_well(world: World) -> None:
    """And is as it was where that ends with an exception."""
    chats = sessions(world)
    with chats.use(ANN, "s") as session:
        assert session.created
        session.history.append("hello")
        session.data["lang"] = "en"
    with suppress(KeyError), chats.use(ANN, "s") as session:
        session.history.append("lost")
        raise KeyError
    with chats.use(ANN, "s") as session:
        assert not session.created
        assert session.data == {"history": ["hello"], "lang": "en"}
    with chats.use(BOB, "s") as session:
        assert session.created
    assert chats.close(ANN, "s")
    assert not chats.close(ANN, "s")
    with chats.use(ANN, "s") as session:
        assert session.data == {}


def test_uses_of_one_session_go_one_after_the_other(world: World) -> None:
    """No turn of a conversation is lost to another."""
    chats = sessions(world)

    def say(number: int) -> None:
        with chats.use(ANN, "s") as session:
            session.history.append(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(say, range(100)))
    with chats.use(ANN, "s") as session:
        assert sorted(session.history) == list(range(100))


def test_at_most_so_many_sessions(world: World) -> None:
    """Those used longest ago go."""
    chats = sessions(world, max_entries=3)
    for number in range(5):
        world.clock.move(1)
        with chats.use(ANN, str(number)) as session:
            session.data["n"] = number
    with chats.use(ANN, "1") as session:
        assert session.created
    with chats.use(ANN, "4") as session:
        assert not session.created


@pytest.mark.parametrize(
    ("name", "scope", "key"),
    [
        ("x" * 257, ("ann", "p"), "k"),
        ("", ("ann", "p"), "k"),
        ("c", ("a" * 257, "p"), "k"),
        ("c", ("ann", ""), "k"),
        ("c", ("ann", "p"), ""),
        ("c", ("ann", "p"), "k" * 1025),
        ("c", ("ann", "p"), 7),
    ],
)
def test_names_are_what_a_request_could_have(name: str, scope: tuple[str, str], key: Any) -> None:
    """Whatever a plugin keeps can be asked for by ``store.*``, too."""
    with pytest.raises(ValueError, match="characters"):
        HostStores(World().stores).cache(name).put(scope, key, 1)


@pytest.mark.parametrize("value", [nan, {"a": [1, {"b": inf}]}, (None, -inf)])
def test_numbers_that_json_has_not_are_refused(world: World, value: Any) -> None:
    """They would be read back as None; None itself is stored."""
    answers = cache(world)
    with pytest.raises(ValueError, match="JSON has no number"):
        answers.put(ANN, "k", value)
    assert answers.put(ANN, "k", {"a": None, "b": [None, 1.5]})
    assert answers.get(ANN, "k") == {"a": None, "b": [None, 1.5]}


@pytest.mark.parametrize(
    "options",
    [{"bytes": -1}, {"bytes": 0}, {"ttl_s": -5}, {"ttl_s": nan}, {"ttl_s": inf}, {"max_entries": 0}],
)
def test_bounds_are_above_0(world: World, options: Any) -> None:
    """As in a request."""
    with pytest.raises(ValueError, match=next(iter(options))):
        cache(world, **options)


@pytest.mark.parametrize("scope", ["u", "up", ("u",), ("u", "p", "q"), None])
def test_a_scope_is_a_pair(world: World, scope: Any) -> None:
    """A ValueError says of what."""
    for ask in (cache(world).get, lambda scope, key: cache(world).put(scope, key, 1)):
        with pytest.raises(ValueError, match=r"\(user, project\)"):
            ask(scope, "k")


def test_who_makes_it_gets_a_copy_too(world: World) -> None:
    """As whoever asks afterwards: nobody shares an object, and a tuple is a list for all."""
    answers, own = cache(world), {"list": [1], "pair": (1, 2)}
    first = answers.get_or_make(ANN, "k", lambda: own)
    own["list"].append(2)
    assert first == answers.get(ANN, "k") == {"list": [1], "pair": [1, 2]}
    with pytest.raises(TypeError):
        answers.get_or_make(ANN, "set", lambda: {1, 2})


@pytest.mark.parametrize("cost_ms", [-1.0, nan, inf])
def test_a_cost_is_a_time(world: World, cost_ms: float) -> None:
    """It is a price's part: what is none would be of every price."""
    with pytest.raises(ValueError, match="cost_ms is from 0"):
        cache(world).put(ANN, "k", 1, cost_ms=cost_ms)


def test_a_consumer_says_what_its_stores_say(world: World) -> None:
    """Of all scopes together."""
    answers = cache(world)
    for scope in (ANN, BOB):
        answers.put(scope, "k", 1, cost_ms=7.0)
        answers.get(scope, "k")
        answers.get(scope, "none")
    usage = world.consumers.by_id["store:cache:answers"].usage()
    of_each = [world.stores.stats("answers", Scope(*scope)) for scope in (ANN, BOB)]
    beside = sum(each.overhead_bytes or 0 for each in of_each)
    assert usage.overhead_bytes == pytest.approx(beside, abs=len(of_each))  # each has its part in whole bytes
    assert replace(usage, overhead_bytes=None) == Usage(
        *(sum(getattr(each, n) for each in of_each) for n in ("hits", "misses", "saved_ms"))
    )
    assert (usage.hits, usage.misses, usage.saved_ms) == (2, 2, 14.0)
