"""Words of texts: which are found, in which order, and that what goes meanwhile is not."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from protocol.vocabulary import StoreKind
from tests.unit.stores.stores import HERE, World, item
from worker.core.cancellation import CancelToken
from worker.stores.base import Choice, Options, Question
from worker.stores.text_index import TextIndex


@pytest.fixture
def index() -> TextIndex:
    made = TextIndex()
    for key, text in (
        ("a", "the cat sat on the mat"),
        ("b", "cat cat cat"),
        ("c", "a dog"),
        ("d", "Über Läden"),
    ):
        made.put(key, text)
    return made


def found(index: TextIndex, text: str, limit: int = 10, among: set[str] | None = None) -> list[str]:
    return [key for key, _ in index.search(text, limit, among)]


def test_any_word_finds_and_the_best_is_first(index: TextIndex) -> None:
    """Whatever its case, and with or without accents."""
    assert found(index, "CAT dog?") == ["c", "b", "a"]
    assert found(index, "uber") == found(index, "LÄDEN") == ["d"]
    assert found(index, "cat", 1) == ["b"]
    assert found(index, "cat", among={"a", "c"}) == ["a"]
    scores = [score for _, score in index.search("cat", 10)]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    "text", ["", "  ", '"', '" OR "', "cat\x00", "NEAR(", "*", "-", "text:dog AND", "(" * 50, "'; DROP"]
)
def test_a_question_is_words_and_no_language(index: TextIndex, text: str) -> None:
    """What means something to SQLite means nothing here."""
    assert set(found(index, text)) <= {"a", "b", "c"}
    assert found(index, "dog") == ["c"]


def test_what_is_replaced_or_removed_is_found_no_more(index: TextIndex) -> None:
    """By its older words."""
    index.put("a", "a fish")
    index.remove("b")
    index.remove("none")
    assert (found(index, "cat"), found(index, "fish")) == ([], ["a"])
    assert index.held_bytes > 0


def test_its_connection_is_closed_with_it() -> None:
    """Explicitly: Python warns of those that are left to be collected."""
    made = TextIndex()
    connection = made._words
    del made
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def documents(world: World, **options: Any) -> Any:
    return world.stores.open("texts", HERE, StoreKind.DOCUMENTS, Options(**options)).store


def test_what_goes_while_it_is_searched_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no result without a text, and nothing fails."""
    store = documents(World())
    for key in "ab":
        store.put(item(key, b'"cat"'))
    search = TextIndex.search

    def gone_meanwhile(*of: Any) -> list[tuple[str, float]]:
        ranked = search(*of)
        store.delete(Choice(key="a"))
        return ranked

    monkeypatch.setattr(TextIndex, "search", gone_meanwhile)
    assert [each.key for each in store.search(Question(None, "cat", 10))] == ["b"]


def test_words_go_for_their_own_price(tmp_path: Path) -> None:
    """They are made of the texts again: without a file, too, and not with the first text that goes."""
    world = World()
    store = documents(world)
    for number in range(300):
        store.put(item(str(number), f'"word{number} {"text " * 50}"'.encode()))
    kind = world.consumers.by_id["store:documents:texts"]
    assert kind.holding().spare_bytes == 0
    store.search(Question(None, "word7", 1))
    spare = kind.holding().spare_bytes
    assert spare == store._words.held_bytes > 0
    offers = kind.offers(10**6)
    assert sum(each.bytes for each in offers) == spare
    assert sum(kind.release(each, CancelToken(lambda: 0)) for each in offers) == spare
    assert kind.holding().spare_bytes == 0
    assert [each.key for each in store.search(Question(None, "word7", 1))] == ["7"]


def test_words_that_have_no_room_are_made_for_one_search(tmp_path: Path) -> None:
    """Under pressure nothing grows: what is found is the same."""
    world = World(tmp_path)
    store = documents(world, persist=True)
    for number in range(300):
        store.put(item(str(number), f'"word{number} {"text " * 50}"'.encode()))
    kind = world.consumers.by_id["store:documents:texts"]
    kind.limit_changed(100, "short")
    for _ in range(2):
        assert [each.key for each in store.search(Question(None, "word7", 1))] == ["7"]
        assert store._words is None
    kind.limit_changed(None, "")
    store.search(Question(None, "word7", 1))
    assert store._words is not None
    store.give_up_part("words")
    assert store._words is None
    world.stores.close()
