"""A request on its way through a gateway: how it is to be handled, and what waits for its answer."""

from collections.abc import Callable
from typing import Any

from protocol.record import Record
from worker.stream.work import Call

Data = dict[str, Any]


class How(Record):
    """How a request is to be handled."""

    meta: Data
    """``deadline_ms`` and ``traceparent``, as the host gave them."""
    progress: bool = False


Run = Callable[[Call], Any]
"""Waits for an answer, in the fleet's names. Raises what was refused."""
Begin = Callable[[str, Data, How], Run]
"""Sends a request on its way, in arrival order, and returns what waits for it."""
