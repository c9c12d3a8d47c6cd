"""Why a device's process is no more."""

from protocol.record import Record


class Ending(Record):
    """Why a process is no more."""

    reason: str
    ran_out: bool
    """Whether what it left behind says that the device's memory was exhausted."""


class EndedError(Exception):
    """The process ended before it answered."""

    def __init__(self, end: Ending) -> None:
        super().__init__(end.reason)
        self.end = end
