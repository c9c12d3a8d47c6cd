"""JSON lines on stderr: one object each, with a time, a level and a message."""

import contextlib
import os
import time
from typing import Any

import orjson

LEVELS = ("debug", "info", "warning", "error")

_threshold = LEVELS.index("warning")


def set_level(level: str) -> None:
    """Log this level and what is more severe. ValueError for a word that is none."""
    global _threshold  # noqa: PLW0603 - one process, one log
    _threshold = LEVELS.index(level)


def log(level: str, message: str, **fields: Any) -> None:
    """Write a line, unless its level is below the threshold. Never raises: a log must not fail work."""
    if LEVELS.index(level) < _threshold:
        return
    line = {"time": round(time.time(), 3), "level": level, "message": message, **fields}
    with contextlib.suppress(OSError):
        os.write(2, orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))
