"""What an engine process's memory is of: its libraries, each of its models, and what earlier models left behind."""

from collections.abc import Mapping

from worker.backends.engines.meter import Steps
from worker.backends.engines.opened_model import OpenedModel
from worker.backends.isolation.child_process import ChildProcess
from worker.core.records import HOST
from worker.core.sure_lock import SureLock
from worker.telemetry.process_figures import mapped_bytes


class Accounts:
    """Those of one process at a time. Whoever loads or shrinks a model takes turns; the lock is the models'."""

    def __init__(self, models: Mapping[str, OpenedModel], lock: SureLock) -> None:
        """``models``: those of the process, and of one that has just ended, until that is told of."""
        self._models = models
        self._lock = lock
        # All mutable state:
        self.empty_bytes: int | None = None
        """What the process took with its libraries, before any model; None where it could not be read."""
        self._left_bytes = 0
        """What earlier models left in it."""

    def add_library(self, before: int | None, after: int | None) -> None:
        """Note what the process took before a library was imported, and after."""
        if self.empty_bytes is None or before is None or after is None:
            self.empty_bytes = None
        else:
            self.empty_bytes += max(0, after - before)

    def note_left(self, child: ChildProcess, taken: int | None) -> None:
        """Note what earlier models have left behind, where there are no others: it is none of the next one's."""
        if not any(each.child is child for each in self._models.values()):
            known = taken is not None and self.empty_bytes is not None
            self._left_bytes = max(0, (taken or 0) - (self.empty_bytes or 0)) if known else 0

    def note_growth(self, model: OpenedModel, *, exact: bool = False) -> None:
        """Count what the process grew by, beyond what is known of its models, as the working memory of this one.

        Of an ``exact`` reading, too, what it takes less than is known: what earlier models left behind is gone first,
        then what this one took as it was opened, then what the others have, who alone are there once this one is gone.
        """
        child, empty, device_id = model.child, self._empty_of(model), model.meter.device_id
        measure = model.meter.taken if exact else model.meter.taken_quickly
        taken = None if child.end is not None else measure(child.pid)
        if taken is None or empty is None:
            return
        if device_id == HOST:
            empty += self._left_bytes
        with self._lock:
            here = [
                each
                for each in self._models.values()
                if each.child is child and each.meter.device_id == device_id
            ]
            if any(each.opened_bytes is None for each in here):
                return  # its share can't be told from theirs
            more = taken - empty - sum((each.opened_bytes or 0) + each.grown_bytes for each in here)
            if model in here:
                grown = model.grown_bytes + more
                model.grown_bytes, more = max(0, grown), min(0, grown)
            if not exact or more >= 0:
                return
            of_left = min(-more, self._left_bytes) if device_id == HOST else 0
            self._left_bytes -= of_left
            less = -more - of_left
            for each in sorted(here, key=lambda each: each is not model):
                less = each.give_up(less)

    def _empty_of(self, model: OpenedModel) -> int | None:
        """Return what the process holds without models, where this one is: of another device than the machine, nothing."""
        return self.empty_bytes if model.meter.device_id == HOST else 0

    def steps(self, model: OpenedModel) -> Steps:
        """Return what measures, step by step, what giving a model's memory back returns."""
        files = tuple(file for each in self._models.values() for file in each.launch.files)
        pid, on_host = model.child.pid, model.meter.device_id == HOST

        def taken() -> int | None:
            found = None if model.opened_bytes is None else model.meter.taken(pid)
            return found + mapped_bytes(pid, files) if found is not None and on_host else found

        return Steps(taken, self._empty_of(model))
