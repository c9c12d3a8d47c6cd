"""``python -m worker broker``: a worker that stands beside other model servers and makes room among them.

It is an ordinary worker whose end of input is not its end, so that it runs as a service; a host may ask it on stdin all
the same, as for a plan, or for an allocation with a lease. What it sees and does comes on stderr, a plain line each.
"""

import os
import time
from functools import partial

import orjson

from protocol.vocabulary import PressureLevel
from worker.app.options import Arguments, fail
from worker.core.events import Event, ModelUnloaded
from worker.core.log import put_line, write_plainly
from worker.core.shortages import start_thread
from worker.instructor.events import wire_event
from worker.tools.report.events import told
from worker.tools.report.words import mebibytes

_CHUNK_BYTES = 64 * 2**10
_LEVEL = PressureLevel.HIGH


def prepare(arguments: Arguments, read_fd: int) -> int:
    """Set what a broker is for, and return the descriptor to read from. Exits with 2 without a file of servers."""
    if arguments.models is None:
        fail("broker: --models FILE names the servers that it stands beside (docs/servers.md)")
    if arguments.auto_optimize is None:
        arguments.auto_optimize = _LEVEL
    arguments.log_level = arguments.log_level or "info"
    write_plainly()
    reading, writing = os.pipe()
    start_thread(partial(_pass_on, read_fd, writing), "broker-input")
    return reading


def narrate(event: Event) -> None:
    """Say what happened, and why, in a line. Does not wait."""
    if isinstance(event, ModelUnloaded):
        gone = event.eviction
        size = f", {mebibytes(gone.freed_bytes)}" if gone.freed_bytes else ""
        _say(gone.device_id, f"{gone.model_id} went{size}", gone.reason)
        return
    name, data = wire_event(event)
    fields = orjson.loads(orjson.dumps(data))  # as who subscribes gets it
    said = told(name, fields)
    if said is not None:
        _say(str(fields.get("device_id", "")), said.title, said.reason)


def _say(device_id: str, title: str, reason: str) -> None:
    put_line(f"{time.strftime('%H:%M:%S')} {device_id} {title}" + (f": {reason}" if reason else ""))


def _pass_on(read_fd: int, write_fd: int) -> None:
    """Copy the input, and keep the other end open when it ends."""
    try:
        while data := os.read(read_fd, _CHUNK_BYTES):
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(write_fd, rest) :]
    except OSError:
        return
