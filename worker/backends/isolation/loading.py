"""A model on its way to a device's process: that reads by itself what lies in files as it is placed, the rest is sent."""

import os
import sys
from collections.abc import Callable

from worker.backends.base import Range
from worker.backends.isolation.child_process import ChildProcess
from worker.backends.isolation.copying import Sending
from worker.backends.isolation.slots import Slots
from worker.core.cancellation import CancelToken
from worker.core.records import FileRange


class Loading(Sending):
    """A ReadsFiles; what was put is there when the block ends."""

    def __init__(self, child: ChildProcess, slots: Slots, handle: str, token: CancelToken) -> None:
        super().__init__(child, slots, "fill", handle, token)

    def put_ranges(
        self, file: FileRange, ranges: list[Range], done: Callable[[], None], refused: Callable[[], None]
    ) -> None:
        """Have the process read. It refuses a file that it can't open, that is another, or that is cut short."""
        place = _place_of(file)
        if place is None:
            refused()
            return
        self._token.check()
        self.make_way()

        def answered() -> None:
            if self._child.finish(call):
                done()
            else:
                refused()

        call = self.begin(None, answered, "fill_file", self._name, place, file.identity, ranges)


def _place_of(file: FileRange) -> str | None:
    """Return where the process finds a file that is open here; None for a name that no message can hold.

    Linux: by the descriptor, whatever lies at its path by now. Elsewhere its identity tells.
    """
    place = file.path
    if sys.platform == "linux":
        place = f"/proc/{os.getpid()}/fd/{file.descriptor}"
    try:
        place.encode()
    except UnicodeEncodeError:
        return None
    return place
