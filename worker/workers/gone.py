"""What went for one request: models, and what other consumers gave back."""

from collections.abc import Iterable

from protocol.results import ReleasedMemory, UnloadedModel
from protocol.vocabulary import Executed
from worker.core.consumers import POOL
from worker.core.errors import WorkerError


class Gone:
    """Filled as it goes, so that whoever fails midway still knows."""

    def __init__(self) -> None:
        self.unloaded: list[UnloadedModel] = []
        """The worker's own models, and those of other processes that their owners unloaded."""
        self.released: list[ReleasedMemory] = []


def name_gone(error: WorkerError, unloaded: Iterable[UnloadedModel]) -> None:
    """Have an error say that models went, where some did: not all is as it was."""
    found = tuple(unloaded)
    if found:
        error.executed = Executed.YES
        error.details["models_unloaded"] = found


def name_released(error: BaseException, released: Iterable[ReleasedMemory]) -> None:
    """Have an error say what others gave back in vain. What was kept for reuse no one misses."""
    found = tuple(each for each in released if each.claimed_bytes and each.kind != POOL)
    if found and isinstance(error, WorkerError):
        error.executed = Executed.YES
        error.details["released"] = found
