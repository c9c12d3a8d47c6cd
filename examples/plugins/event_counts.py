"""Counts what is in a file that is larger than memory, window by window, and goes on with what was added since.

EVENTS_FILE=events.jsonl python -m memory_worker --plugin examples.plugins.event_counts

{"request_id": "1", "action": "events.count", "data": {"field": "kind"}}
"""

import os
from collections import Counter
from typing import Any

from worker.plugins import Call, InvalidRequestError, PluginHost

WINDOW_BYTES = 64 * 2**20


def register(host: PluginHost) -> None:
    """Add ``events.count``. The operator names the file, never a request."""
    path = os.environ["EVENTS_FILE"]
    # How far each field was counted, and what was found; what was counted stays counted when the file grows.
    counted: dict[str, tuple[dict[str, Any] | None, Counter[str]]] = {}

    def count(data: dict[str, Any], call: Call) -> dict[str, Any]:
        field = data.get("field")
        if not isinstance(field, str):
            raise InvalidRequestError.at("data.field", "the name of a field of the events is needed")
        position, totals = counted.get(field, (None, Counter()))
        windows_read = 0
        with host.stream(path, window_bytes=WINDOW_BYTES, after=position, call=call) as windows:
            for window in windows:
                totals = totals + Counter(str(event.get(field)) for event in window.items)
                counted[field] = (window.position, totals)
                windows_read += 1
        return {"counts": dict(totals.most_common(100)), "windows": windows_read}

    host.add_action("events.count", count)
