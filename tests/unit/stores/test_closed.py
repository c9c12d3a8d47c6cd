"""A store that was closed, or deleted with its scope, stays so, whoever found it open before."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from protocol.vocabulary import StoreKind
from tests.unit.stores.stores import HERE, World, item
from worker.plugins import StoreNotFoundError
from worker.stores.base import Choice, Options, Question, Store
from worker.stores.host import HostStores

PAIR = (HERE.user_id, HERE.project_id)

CHANGES = {
    "put": lambda store: store.put(item("late", b"secret", vector=(1.0,))),
    "delete": lambda store: store.delete(Choice(prefix="k")),
    "clear": lambda store: store.clear(),
    "configure": lambda store: store.configure(Options(max_bytes=10_000)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("persist", [None, True], ids=["memory", "disk"])
def test_who_is_late_changes_nothing_of_a_deleted_scope(
    tmp_path: Path, change: Any, persist: bool | None
) -> None:
    """Neither memory nor a file is taken again for what no one can find or delete any more."""
    world = World(tmp_path)
    store = world.stores.open("v", HERE, StoreKind.VECTORS, Options(persist=persist)).store
    store.put(item("k", b"secret", vector=(1.0,)))
    consumer = world.consumers.by_id["store:vectors:v"]
    world.stores.delete_scope(HERE.user_id, None)
    with pytest.raises(StoreNotFoundError, match=r"closed meanwhile.*store\.open"):
        change(store)
    assert store.get("k") is None
    assert store.search(Question([1.0], None, 10)) == ()
    world.stores.tend()
    assert consumer.holding().held_bytes == 0
    assert not list(tmp_path.rglob("*.store*"))
    world.stores.close()


def test_a_plugins_late_put_comes_after_the_deletion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It found the store open, and puts into one that is opened anew: what was deleted is not there."""
    world = World(tmp_path)
    answers = HostStores(world.stores).cache("answers", persist=True)
    answers.put(PAIR, "old", 1)
    found: list[Store | None] = [world.stores.find("answers", HERE)]
    world.stores.delete_scope(HERE.user_id, None)
    find = world.stores.find
    monkeypatch.setattr(world.stores, "find", lambda *of: found.pop() if found else find(*of))
    assert answers.put(PAIR, "new", 2)
    assert not found
    assert (answers.get(PAIR, "old"), answers.get(PAIR, "new")) == (None, 2)
    world.stores.close()


def test_a_session_whose_scope_is_deleted_while_it_is_used_is_not_there_again(tmp_path: Path) -> None:
    """What was read before is not written after: it was to be forgotten."""
    world = World(tmp_path)
    chats = HostStores(world.stores).sessions("chats", persist=True)
    with chats.use(PAIR, "a") as session:
        session.history.append("secret")
    with ExitStack() as use:
        use.enter_context(chats.use(PAIR, "a")).history.append("more")
        world.stores.delete_scope(HERE.user_id, None)
        with pytest.raises(StoreNotFoundError):
            use.close()
    with chats.use(PAIR, "a") as session:
        assert session.created
    world.stores.close()
