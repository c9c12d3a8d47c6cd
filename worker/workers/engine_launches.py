"""What engines' processes are to open, read out of models' files: again only where these are others by then.

The header of a graph with thousands of nodes takes a tenth of a second to go through, which is more than opening it.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from protocol.record import Record
from worker.core.models import ModelSpec
from worker.loaders.base import EngineLoader, check_countable
from worker.loaders.model_path import ModelFiles, model_files

if TYPE_CHECKING:
    from worker.backends.engines.base import EngineLaunch, FileState


class _Known(Record):
    declared: "tuple[ModelSpec, ModelFiles, FileState]"
    """With the files as they were before they were read."""
    launch: "EngineLaunch"
    after: "FileState"
    """Of all that the engine opens, when it was worked out."""


class EngineLaunches:
    """The launch of each model that was asked for, by id. Thread-safe: one that is read twice is the same."""

    def __init__(self) -> None:
        # All mutable state: what was read, as of which declaration and files.
        self._known: dict[str, _Known] = {}

    def forget(self, model_ids: Iterable[str]) -> None:
        """Drop what was read of models that are not declared any more."""
        for each in model_ids:
            self._known.pop(each, None)

    def of(self, spec: ModelSpec, loader: EngineLoader) -> "EngineLaunch":
        """Return a model's launch, with its size. ModelLoadFailedError as its loader raises it."""
        from worker.backends.engines.base import state_of  # noqa: PLC0415 - only where there is an engine's model

        files = model_files(spec)
        before, known = state_of(files.real), self._known.get(spec.model_id)
        declared = (spec, files, before)
        if known is not None and known.declared == declared and known.after == known.launch.state():
            return known.launch
        launch = replace(loader.launch(spec), model_id=spec.model_id)
        if launch.estimated_bytes is None:
            launch = replace(launch, estimated_bytes=loader.estimate(spec))
        check_countable(spec, launch.estimated_bytes)
        self._known[spec.model_id] = _Known(declared, launch, launch.state())
        return launch
