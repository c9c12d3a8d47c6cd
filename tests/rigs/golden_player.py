"""Plays a recorded conversation back. Standard library only, as the fake worker that has it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class Player:
    """Plays the other side of a golden conversation: a request that stands in it gets what was answered there."""

    def __init__(self, sent: Path, answered: Path, send: Callable[[Json], None]) -> None:
        self._requests = [one for one in map(_object, sent.read_bytes().splitlines()) if one]
        self._lines = [json.loads(line) for line in answered.read_bytes().splitlines()]
        self._send = send

    def play(self, request: Json) -> bool:
        """Send progress and reply under the host's own request id; false where the request is not in it."""
        for at, one in enumerate(self._requests):
            if one.get("action") == request["action"] and one.get("data", {}) == request["data"]:
                del self._requests[at]
                return self._answer(one.get("request_id"), request["request_id"])
        return False

    def _answer(self, golden_id: object, request_id: str) -> bool:
        for line in [line for line in self._lines if line.get("request_id") == golden_id]:
            self._lines.remove(line)
            self._send({**line, "request_id": request_id})
            if "success" in line:
                return True
        return False


def _object(line: bytes) -> Json | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
