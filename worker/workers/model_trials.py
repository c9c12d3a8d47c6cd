"""Checking every model as a load would, short of loading it: what ``doctor`` tells of a file of models."""

from collections.abc import Iterable

from worker.core.cancellation import CancelToken
from worker.core.errors import ModelLoadFailedError, WorkerError
from worker.loaders.base import reason_of
from worker.manager.model_entry import ModelEntry
from worker.workers.model_placement import ModelPlacement


def try_out(
    entries: Iterable[ModelEntry], placement: ModelPlacement, token: CancelToken
) -> dict[str, tuple[str, ...]]:
    """Check models that nothing is known against; one that can't be loaded gets its ``state_reason``.

    Libraries are imported, by engines in processes that end with it, and operators' factories are. Returns what a
    library takes no notice of, by model id.
    """
    notes = {}
    for entry in entries:
        if entry.state_reason is None and not entry.spec.external:
            try:
                notes[entry.model_id] = placement.try_out(entry, token)
            except ModelLoadFailedError as error:
                entry.state_reason = reason_of(error)
            except WorkerError as error:
                entry.state_reason = error.message
    return notes
