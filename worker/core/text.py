"""Text that people type and read. Standard library only."""

import re
from collections.abc import Iterable

UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys instead of showing: controls, line and paragraph ends, changes of direction."""


def printable(text: str) -> str:
    """Return a text with nothing in it that a terminal obeys: such characters are named, as JSON names them."""
    return UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


NAME_MAX = 256
"""Characters of a name that a nearest is looked for: it takes time by the square of them."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the name that was probably meant: the one that is most alike, by at least ``cutoff`` (of 1); None for none."""
    if len(name) > NAME_MAX:
        return None
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistake needs it

    return next(iter(get_close_matches(name, known, n=1, cutoff=cutoff)), None)


_UNITS = {"": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def size_bytes(text: str) -> int:
    """Read ``"1048576"`` or ``"8GiB"`` as bytes. ValueError for anything else, or none at all."""
    number = text.rstrip("KMGTiBkmgtIb")
    unit = text[len(number) :].upper()
    if not number.isdecimal() or unit not in _UNITS or not 0 < int(number) * _UNITS[unit] < 2**63:
        message = f"{text!r} is not a size in bytes, such as 1048576, 512MiB or 8GiB"
        raise ValueError(message)
    return int(number) * _UNITS[unit]
