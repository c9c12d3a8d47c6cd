"""``host.stores``: vectors and preferences as a plugin uses them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.stores.stores import World
from worker.plugins import InvalidRequestError, LimitExceededError, Near, Preference
from worker.stores.base import Scope
from worker.stores.host import HostStores

ANN, BOB = ("ann", "p"), ("bob", "p")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.stores.close()


@pytest.fixture
def stores(world: World) -> HostStores:
    return HostStores(world.stores)


def test_vectors_are_found_with_their_values(stores: HostStores) -> None:
    """A list or an array is put; values are JSON or bytes, and copies."""
    near = stores.vectors("near", metric="l2")
    near.put(ANN, "a", [0, 1], {"n": [1]}, tags=("x",))
    near.put(ANN, "b", np.array([0, 3], np.float32), b"\0")
    found = near.search(ANN, np.array([0, 1]))
    assert found == [Near("a", 0.0, {"n": [1]}), Near("b", -2.0, b"\0")]
    found[0].value["n"].append(2)
    assert near.get(ANN, "a") == {"n": [1]}
    assert [each.key for each in near.search(ANN, [0, 3], limit=1)] == ["b"]
    assert [each.key for each in near.search(ANN, [0, 3], tags=["x"])] == ["a"]
    assert near.delete(ANN, tag="x") == 1
    assert near.get(ANN, "a") is None


def test_what_does_not_fit_or_is_no_vector_is_an_error(stores: HostStores) -> None:
    """It says why, and nothing was changed."""
    near = stores.vectors("near", max_entries=1)
    near.put(ANN, "a", [1.0])
    with pytest.raises(LimitExceededError, match=r"'b' is not stored: it is full: max_entries is 1"):
        near.put(ANN, "b", [1.0])
    with pytest.raises(InvalidRequestError, match="have 1"):
        near.put(ANN, "a", [1.0, 2.0])
    with pytest.raises(ValueError, match="exactly one"):
        near.delete(ANN)
    assert [each.key for each in near.search(ANN, [1.0])] == ["a"]


def test_asking_opens_nothing_but_what_is_on_disk(world: World, stores: HostStores) -> None:
    """A scope in which nothing was put has no store for having been asked; one that persists is found after a restart."""
    near, me = stores.vectors("near", persist=True), stores.preferences("me", persist=True)
    assert (near.search(BOB, [1.0]), near.get(BOB, "a"), near.delete(BOB, "a")) == ([], None, 0)
    assert (me.all(BOB), me.get(BOB, "a"), me.search(BOB, "a"), me.prompt(BOB)) == ({}, None, [], "")
    assert world.stores.stats(None, Scope(*BOB)).stores == ()
    near.put(ANN, "a", [1.0], 1)
    me.put(ANN, "a", 1)
    world.stores.close()
    again = HostStores(world.made())
    assert again.vectors("near", persist=True).search(ANN, [2.0]) == [Near("a", 1.0, 1)]
    assert again.preferences("me", persist=True).get(ANN, "a") == Preference(1, None, None)
    again._stores.close()


def test_preferences_are_listed_found_and_told(stores: HostStores) -> None:
    """All of a scope, or those about something, as what they are and as a text."""
    me = stores.preferences("me")
    me.put(ANN, "language", "German", description="for all answers", timestamp="2026-01-01")
    me.put(ANN, "theme", {"dark": True})
    me.put(BOB, "language", "French")
    assert me.get(ANN, "language") == Preference("German", "for all answers", "2026-01-01")
    assert list(me.all(ANN)) == ["language", "theme"]
    assert me.search(ANN, "which language?") == [Near("language", 0.5, me.get(ANN, "language"))]
    assert me.prompt(ANN) == '- language: German (for all answers)\n- theme: {"dark":true}'
    assert me.prompt(ANN, "answers") == "- language: German (for all answers)"
    assert me.prompt(BOB) == "- language: French"
    assert me.delete(ANN, "language") == 1
    assert list(me.all(ANN)) == ["theme"]


def test_all_of_more_than_a_page(stores: HostStores) -> None:
    """Every preference is in the prompt, however many there are."""
    me = stores.preferences("me", max_entries=1200, bytes="8MiB")
    for number in range(1100):
        me.put(ANN, f"{number:04}", number)
    assert me.prompt(ANN).count("\n") == 1099
    assert list(me.all(ANN))[-1] == "1099"


@pytest.mark.parametrize("vector", [[], (), np.empty(0), np.array(1.0), 5])
def test_what_has_no_components_is_no_vector(stores: HostStores, vector: Any) -> None:
    """The first one, too, whose dimensions the others are to have."""
    with pytest.raises(InvalidRequestError, match="one number or more"):
        stores.vectors("v").put(ANN, "a", vector)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_how_many_are_wanted_is_checked(stores: HostStores, limit: int) -> None:
    """As of a request."""
    with pytest.raises(ValueError, match="limit is from 1 to 1000"):
        stores.vectors("v").search(ANN, [1.0], limit=limit)


@pytest.mark.parametrize("dimensions", [0, -3, 65_537])
def test_dimensions_are_checked(stores: HostStores, dimensions: int) -> None:
    """As of a request."""
    with pytest.raises(ValueError, match="dimensions is from 1 to 65536"):
        stores.vectors("v", dimensions=dimensions)
