"""Several values stored together: all of them or none."""

from typing import Any

import pytest

from worker.core.atomic import GONE, store_together


class Full(dict[str, int]):
    """A mapping that has no memory for one key more."""

    def __setitem__(self, key: str, value: int) -> None:
        if key not in self:
            raise MemoryError
        super().__setitem__(key, value)


def test_all_is_stored() -> None:
    """Keys are added, replaced and removed."""
    one, other = {"a": 1, "b": 2}, dict[str, int]()
    store_together([(one, "a", 3), (one, "b", GONE), (one, "never", GONE), (other, "c", 4)])
    assert (one, other) == ({"a": 3}, {"c": 4})


def test_nothing_is_stored_where_a_key_finds_no_memory() -> None:
    """What was added before it is taken out again, and nothing was replaced or removed yet."""
    one, full = {"a": 1, "b": 2}, Full(x=1)
    stores: list[Any] = [(one, "a", 3), (one, "b", GONE), (one, "new", 5), (full, "y", 2)]
    with pytest.raises(MemoryError):
        store_together(stores)
    assert (one, full) == ({"a": 1, "b": 2}, {"x": 1})
