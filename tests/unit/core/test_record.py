"""What ``protocol.record`` promises of kinds of records."""

from dataclasses import fields, replace
from threading import Barrier, Thread

import orjson
import pytest

from protocol import record
from protocol.record import Record


def test_a_kind_is_a_dataclass_once_its_first_record_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written, compared and replaced as any dataclass is, by whichever thread makes the first."""
    monkeypatch.setattr(record, "_late", [])

    class Pair(Record):
        first: int
        second: str = "b"

    assert "__dataclass_fields__" not in vars(Pair)
    made, begin = list[Pair](), Barrier(4)

    def make() -> None:
        begin.wait()
        made.append(Pair(1))

    threads = [Thread(target=make) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert made == [Pair(1, "b")] * 4
    assert orjson.dumps(made[0]) == b'{"first":1,"second":"b"}'
    assert replace(made[0], second="c") == Pair(1, "c")


def test_who_asks_for_the_fields_of_a_kind_finds_them_before_any_was_made() -> None:
    """A schema is made from kinds of which there is no record yet, those of another record among them."""

    class Base(Record):
        first: int

    class More(Base):
        second: int = 2

    assert [each.name for each in fields(Base)] == ["first"]
    assert [each.name for each in fields(More)] == ["first", "second"]
    assert More(1).second == 2


def test_a_kind_is_a_dataclass_as_it_is_declared_once_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is declared late is about to be used, and may find no memory for being made then."""
    monkeypatch.setattr(record, "_late", [])
    record.define_at_once()

    class Pair(Record):
        first: int

    assert {"__init__", "__dataclass_fields__"} <= vars(Pair).keys()
