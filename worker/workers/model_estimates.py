"""What models will take, read from their files beside everything else: no file keeps the worker from answering.

One model at a time, each in a thread of its own, which is left behind where its storage does not answer.
"""

from collections.abc import Callable, Iterable
from functools import partial

from protocol.vocabulary import ModelState
from worker.core.errors import ModelLoadFailedError, OutOfMemoryError
from worker.core.models import AUTO_LOADER, ModelSpec
from worker.core.shortages import patiently, start_thread
from worker.core.sure_lock import SureEvent
from worker.loaders.base import (
    CheckedLoader,
    EngineLoader,
    FileLoader,
    ObjectLoader,
    check_countable,
    reason_of,
)
from worker.loaders.file_location import location_of
from worker.loaders.registry import BUILT_IN, inferred, loader_of
from worker.manager.manager_memory import MemoryManager
from worker.manager.model_entry import ModelEntry
from worker.workers.engine_launches import EngineLaunches

_WITH_HEADER = frozenset(BUILT_IN) - {"module"}
"""Loaders that read a size from a file without importing anything heavy, or running the model's code."""
PATIENCE_S = 3.0
"""How long a file may take: its header is read, which is megabytes at most."""
_MAX_HUNG = 4
"""Threads that are left behind at most. What is declared after so many is read when it is asked for."""


class ModelEstimates:
    """Fills in ``estimated_bytes`` of models that were not loaded yet, or why they can't be."""

    def __init__(
        self, manager: MemoryManager, patience_s: float = PATIENCE_S, launches: EngineLaunches | None = None
    ) -> None:
        self._manager = manager
        self._patience_s = patience_s
        self._launches = launches or EngineLaunches()
        # All mutable state: set while nothing is being read, and what was not read in time, each set once it is over.
        self._done = SureEvent()
        self._done.set()
        self._late: list[SureEvent] = []

    def read(self, entries: Iterable[ModelEntry]) -> None:
        """Read all of them, here."""
        for entry in tuple(entries):
            if entry.spec.refused is None and entry.spec.loader not in {AUTO_LOADER, *_WITH_HEADER}:
                continue
            if self._hanging() >= _MAX_HUNG:
                entry.state_reason = "it was not looked at: the storage of other models does not answer"
                continue
            found = list[bool]()
            try:
                is_read = start_thread(partial(self._read_one, entry, found), "estimate")
            except OutOfMemoryError as error:
                self._found(entry, None, error.message)
                continue
            if not is_read.wait(self._patience_s):
                with self._manager.lock:
                    self._late.append(is_read)
                    if not found:  # else it came just now
                        self._found(entry, None, f"its storage has not answered for {self._patience_s:g} s")

    def begin(self, entries: Iterable[ModelEntry], then: Callable[[], None]) -> None:
        """Read all of them beside, and go on with ``then``, which is not waited for."""
        self._done.clear()

        def run() -> None:
            try:
                self.read(entries)
            finally:
                patiently(self._done.set)
            then()

        try:
            start_thread(run, "estimates")
        except OutOfMemoryError:
            self._done.set()  # models have no estimates then
            raise

    def wait(self, timeout_s: float) -> bool:
        """Wait until all were read. False if that takes longer."""
        return self._done.wait(timeout_s)

    def _hanging(self) -> int:
        """Count what is being read yet, though it was given up."""
        with self._manager.lock:
            self._late = [each for each in self._late if not each.is_set()]
            return len(self._late)

    def _read_one(self, entry: ModelEntry, found: list[bool]) -> None:
        """Find out, and note it; ``found`` has something in it from then on."""
        spec = entry.spec
        known, size, reason, location = spec, None, None, None
        try:
            location = location_of(spec)
            known = inferred(spec)
            loader = loader_of(known)
            size, reason = self._size_of(known, loader)
            check_countable(known, size)
            if isinstance(loader, CheckedLoader):
                loader.check(known)
        except ModelLoadFailedError as error:
            size, reason = None, reason_of(error)
        except Exception as error:  # noqa: BLE001 - whatever it is: that model has no estimate, and all others have
            size, reason = None, f"reading it failed: {type(error).__name__}: {error}"
        with self._manager.lock:
            found.append(True)
            if entry.spec is spec:
                self._found(entry, size, reason)
                entry.file_location = location
                entry.loader = entry.loader if known.loader == AUTO_LOADER else known.loader

    def _size_of(
        self, spec: ModelSpec, loader: FileLoader | ObjectLoader | EngineLoader
    ) -> tuple[int | None, str | None]:
        """Return what a model will take, and what stands against loading it all the same."""
        if not isinstance(loader, EngineLoader):
            return loader.estimate(spec), None
        try:
            return self._launches.of(spec, loader).estimated_bytes, None
        except ModelLoadFailedError as error:  # it may be of its library, or its params
            return loader.estimate(spec), reason_of(error)

    def _found(self, entry: ModelEntry, size: int | None, reason: str | None) -> None:
        with self._manager.lock:
            if entry.state in {ModelState.UNLOADED, ModelState.FAILED}:
                entry.estimated_bytes, entry.state_reason = size, reason
