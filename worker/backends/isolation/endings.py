"""Why a device's process is no more."""

from protocol.record import Record


class Ending(Record):
    """Why a process is no more."""

    reason: str
    ran_out: bool
    """Whether what it left behind says that the device's memory was exhausted."""
