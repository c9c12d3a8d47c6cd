"""What is otherwise made when it is first used: made while nothing is asked, for a shortage of memory may come.

The interpreter itself may crash where it makes a class and finds no memory for that.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from pydantic import BaseModel

from protocol.record import Record, define, define_at_once

Kind = TypeVar("Kind")


def first_uses() -> list[Callable[[], object]]:
    """Return what makes each of them, all below a millisecond. Any may be called again."""
    define_at_once()  # what is imported from here on
    models = [partial(each.model_rebuild) for each in kinds_of(BaseModel) if not each.__pydantic_complete__]
    return [*models, *(partial(define, each) for each in kinds_of(Record))]


def kinds_of(base: type[Kind]) -> Iterator[type[Kind]]:
    """Return all subclasses there are by now."""
    for each in base.__subclasses__():
        yield each
        yield from kinds_of(each)
