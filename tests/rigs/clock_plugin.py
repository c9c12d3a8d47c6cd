"""Sets the worker's time of day, as an administrator or a network's time service does."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from worker.core.clock import SystemClock
from worker.plugins import Call, PluginHost

_time, _time_ns = time.time, time.time_ns


def _set(data: dict[str, Any], _call: Call) -> dict[str, Any]:
    """Let whatever asks for the time of day be told one that is so many seconds off."""
    seconds = data["seconds"]
    time.time = lambda: _time() + seconds
    time.time_ns = lambda: _time_ns() + seconds * 10**9
    SystemClock.utc = lambda _: datetime.now(UTC) + timedelta(seconds=seconds)
    return {}


def register(host: PluginHost) -> None:
    """Add the action."""
    host.add_action("clock.set", _set)
