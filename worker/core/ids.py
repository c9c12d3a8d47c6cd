"""Ids of what a worker makes: allocations, plans, transfers. No other worker process gives out the same ones."""

import re

from protocol.record import Record

_BY_COUNT = re.compile(r"(?:alloc|batches|operation|plan|transfer)-[0-9]+", re.ASCII)
_PARTS = re.compile(r"[a-z]+-(0|[1-9][0-9]*)(?:-([0-9a-f]+))?", re.ASCII)


class Ids(Record):
    """What this process puts into its ids, so that one from before a restart names nothing after it."""

    instance: str = ""
    """Hexadecimal digits; empty where the same ids are wanted everywhere."""

    def make(self, kind: str, number: int) -> str:
        """Return the id of the ``number``-th of its kind: ``alloc-1-9f3ac2d1``."""
        return f"{kind}-{number}-{self.instance}" if self.instance else f"{kind}-{number}"

    def complete(self, given: str) -> str:
        """Return the id that is meant: ``alloc-1`` is this process's first, for who counts instead of reading replies.

        Whoever sends back what a worker answered never sends one without the process's part.
        """
        return f"{given}-{self.instance}" if self.instance and _BY_COUNT.fullmatch(given) else given

    def number(self, made: str) -> int | None:
        """Return an id's number; None for what this process can't have made."""
        parts = _PARTS.fullmatch(made)
        return int(parts[1]) if parts is not None and (parts[2] or "") == self.instance else None

    def is_of_another(self, given: str) -> bool:
        """Tell whether an id is another worker process's."""
        parts = _PARTS.fullmatch(given)
        return parts is not None and (parts[2] or "") != self.instance
