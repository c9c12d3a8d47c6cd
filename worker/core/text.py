"""Text that goes to a terminal. Standard library only."""

import re

UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys instead of showing: controls, line and paragraph ends, changes of direction."""


def printable(text: str) -> str:
    """Return a text with nothing in it that a terminal obeys: such characters are named, as JSON names them."""
    return UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
