"""Changes of several values that are made together: all of them, or none where memory is short."""

from collections.abc import MutableMapping
from typing import Any, Final


class _Gone:
    """The type of ``GONE``."""


GONE: Final = _Gone()
"""In the place of a value: the key is removed."""

Store = tuple[MutableMapping[Any, Any], Any, Any]
"""A mapping (``vars`` of an object for its attributes), a key in it, and its new value or ``GONE``."""


def store_together(stores: list[Store]) -> None:
    """Make all these changes, or none: MemoryError leaves every value as it was.

    Its caller works all new values out before. Only what adds a key may need memory, so it comes first and is undone
    where there is none; what then replaces and removes needs none. No key of a mapping may be named twice.
    """
    added, others = list[Store](), list[Store]()
    for store in stores:
        (others if store[2] is GONE or store[1] in store[0] else added).append(store)
    to_add, to_undo, rest = iter(added), iter(added), iter(others)
    try:
        for mapping, key, value in to_add:
            mapping[key] = value
    except BaseException:
        for mapping, key, _ in to_undo:
            mapping.pop(key, None)
        raise
    for mapping, key, value in rest:
        if value is GONE:
            mapping.pop(key, None)
        else:
            mapping[key] = value
