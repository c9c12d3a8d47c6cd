"""What a device's process says unasked: that figures on its page have changed from outside.

It goes through the process's stderr, the one pipe that is read at all times and on every system. A line that only looks
like one has figures looked at once more, and does no other harm.
"""

import os
from contextlib import suppress

_BEGINS = b"\0memory-worker figures "


def tell(device_id: str) -> None:
    """Tell the worker that a device's figures are others."""
    with suppress(OSError):  # the worker is gone
        os.write(2, _BEGINS + device_id.encode() + b"\n")


def split(line: bytes) -> tuple[bytes, str | None]:
    """Return what a library wrote of a line, and the device that is told of behind that, if one is."""
    said, mark, device_id = line.partition(_BEGINS)
    return said, device_id.decode("ascii", "replace").strip() if mark else None
