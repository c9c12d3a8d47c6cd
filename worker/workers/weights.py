"""Models' weights in memory: filled from a file, the operator's code or a copy, read, and given back."""

import gc
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from protocol.record import Record
from protocol.results import ReleaseStep
from worker.backends.base import COPY_CHUNK_BYTES, MapsFiles, OwnProcess, RemoteWork, Write
from worker.backends.block_copy import copy_out
from worker.backends.pieces import Done, no_progress
from worker.core.cancellation import CancelToken
from worker.core.errors import OutOfMemoryError
from worker.core.log import log
from worker.core.models import ModelSpec, TensorInfo
from worker.core.records import HOST, AllocationRequest, Block, Footprint, Receipt, Report
from worker.core.sure_lock import SureLock
from worker.loaders.base import CheckedLoader, EngineLoader, FileLoader, ObjectLoader, WeightFile
from worker.loaders.file_location import location_of
from worker.loaders.mapping import check_mappable, map_weights
from worker.loaders.model_path import Identity, identity_of, model_files
from worker.loaders.placing import place, place_through
from worker.loaders.registry import inferred, loader_of
from worker.manager.model_entry import ModelEntry, Residence
from worker.telemetry.process_figures import private_bytes
from worker.watch.device_monitor import DeviceMonitor
from worker.wiring import Core
from worker.workers.engine_launches import EngineLaunches
from worker.workers.engine_models import EngineModels
from worker.workers.import_growth import ImportGrowth

if TYPE_CHECKING:
    from worker.backends.engines.base import EngineLaunch

_SHOWN_VALUES = 8
"""How many values that are no tensors are named in the log."""


class Source(Record):
    """What a model is loaded from: its file, the operator's own code, an engine, or its copy in host memory."""

    size_bytes: int
    identity: Identity | None = None
    """What its files were before they were opened."""
    file: WeightFile | None = None
    loader: ObjectLoader | None = None
    engine: "EngineLaunch | None" = None
    engine_device: str | None = None
    """Where the engine puts it; None for the machine's own memory."""
    copy: Residence | None = None

    @property
    def learns(self) -> bool:
        """Whether only loading it tells what it takes."""
        return self.loader is not None or self.engine is not None

    def close(self) -> None:
        """Give the file up. Idempotent."""
        if self.file is not None:
            self.file.close()


class ModelObjects:
    """Models that the operator's code makes: Python objects, whose bytes only the process as a whole shows.

    What one takes is what the process grew by, so it is only about right.
    """

    def __init__(self, process_bytes: Callable[[], int | None]) -> None:
        self._process_bytes = process_bytes
        self._measuring = SureLock()
        """Held while one is made or dropped, so that no two are mistaken for one another."""
        # All mutable state: the objects by handle.
        self._objects: dict[str, object] = {}

    def load(self, handle: str, make: Callable[[], object]) -> Block:
        """Make one, and measure it without what it imports; the maker's error goes on, and nothing is kept."""
        with self._measuring:
            before = self._process_bytes()
            with ImportGrowth(self._process_bytes) as imports:
                value = make()
            after = self._process_bytes()
            self._objects[handle] = value
            return Block(0 if before is None or after is None else max(0, after - before - imports.bytes))

    def get(self, handle: str) -> object:
        """Return one."""
        return self._objects[handle]

    def unload(self, handle: str) -> int | None:
        """Drop one. Returns what the process shrank by; a leaser who kept it keeps its memory too."""
        with self._measuring:
            before = self._process_bytes()
            del self._objects[handle]
            gc.collect()
            after = self._process_bytes()
            return None if before is None or after is None else max(0, before - after)

    def live(self) -> frozenset[str]:
        """Return the handles of all."""
        return frozenset(self._objects)


class ModelWeights:
    """Every model's block or object, by handle."""

    def __init__(
        self,
        core: Core,
        monitor: DeviceMonitor,
        process_bytes: Callable[[], int | None],
        engines: EngineModels,
    ) -> None:
        self.engines = engines
        self.launches = EngineLaunches()
        self._backends = core.backends
        self._monitor = monitor
        self._clock = core.clock
        self._usage = core.manager.usage
        self._process_bytes = process_bytes
        self._objects = ModelObjects(process_bytes)
        # Mutable: how each loaded model's tensors lie in its block, by handle.
        self._tensors: dict[str, tuple[TensorInfo, ...]] = {}
        self._identities: dict[str, Identity | None] = {}
        """What each loaded model's files were."""

    # ---- coming ----

    def open(self, entry: ModelEntry) -> Source:
        """Open what a model is loaded from, and check all of it that can be checked without loading it."""
        if entry.host_copy is not None:
            return Source(entry.host_copy.size_bytes, copy=entry.host_copy)
        spec = inferred(entry.spec)
        entry.loader = spec.loader
        entry.file_location = location_of(spec)
        loader = loader_of(spec)
        if isinstance(loader, FileLoader):
            identity = None if entry.spec.path is None else identity_of(model_files(spec).declared)
            file = loader.open(spec)
            entry.estimated_bytes = file.total_bytes
            if file.passed_over:
                first = "; ".join(file.passed_over[:_SHOWN_VALUES])
                count = len(file.passed_over)
                log(
                    "info",
                    "values beside tensors were passed over",
                    model_id=entry.model_id,
                    count=count,
                    first=first,
                )
            return Source(max(1, file.total_bytes), identity, file)
        if isinstance(loader, EngineLoader):
            launch = self.launches.of(spec, loader)
            self.engines.check(entry, launch)
            entry.estimated_bytes = launch.estimated_bytes
            identity = identity_of((*model_files(spec).declared, *launch.files))
            return Source(
                max(1, entry.loading_bytes or 0),
                identity,
                engine=launch,
                engine_device=loader.device_id(spec),
            )
        if isinstance(loader, CheckedLoader):
            loader.check(spec)
        return Source(max(1, entry.known_bytes or 0), loader=loader)

    def check_placement(self, entry: ModelEntry, source: Source, device_id: str) -> None:
        """Raise ModelLoadFailedError where weights are to stay in their file there, and can't."""
        if source.file is not None:
            check_mappable(entry.spec, source.file, self._backends[device_id])

    def load(
        self,
        entry: ModelEntry,
        source: Source,
        device_id: str,
        handle: str,
        token: CancelToken,
        report: Report,
    ) -> tuple[Block, int, Footprint | None]:
        """Load into a block of this handle. Returns it, what the ledger is to count, and what an engine's process took."""
        total, footprint = source.size_bytes, None
        if source.loader is not None:
            make = source.loader.build
            block = self._objects.load(handle, lambda: make(entry.spec, device_id))
            taken = block.actual_bytes
        elif source.engine is not None:
            footprint = self.engines.load(entry, source.engine, device_id, handle, token)
            taken = total if footprint.loaded_bytes is None else footprint.loaded_bytes
            block = Block(taken)
        else:
            request, taken = AllocationRequest(device_id, total, purpose="model"), total

            def done(completed: int) -> None:
                report(min(completed, total), total)

            block = self._filled(entry.spec, source, request, handle, token, done)
        self._identities[handle] = (
            source.identity if source.copy is None else self._identities.get(source.copy.handle)
        )
        return block, taken, footprint

    def _filled(
        self,
        spec: ModelSpec,
        source: Source,
        request: AllocationRequest,
        handle: str,
        token: CancelToken,
        done: Done,
    ) -> Block:
        """Have tensors in a block: mapped where they are to stay in their file, else copied."""
        mapped = None
        if source.file is not None:
            mapped = map_weights(spec, source.file, self._backends[request.device_id], handle, token, done)
        if mapped is not None:
            block, self._tensors[handle] = mapped
            return block
        block = self._copy(source, request, handle, token, done)
        if source.file is not None:
            self._tensors[handle] = source.file.tensors
        elif source.copy is not None:
            self._tensors[handle] = self._tensors[source.copy.handle]
        return block

    def _copy(
        self, source: Source, request: AllocationRequest, handle: str, token: CancelToken, done: Done
    ) -> Block:
        """Fill a block, on the device of the request."""

        def fill(view: memoryview | None, write: Write) -> None:
            if source.copy is not None:
                self._bring_back(source.copy, view, write, token, done)
            elif source.file is not None and view is not None:
                place(source.file, view, token, done)
            elif source.file is not None:
                place_through(source.file, write, token, done)

        backend = self._backends[request.device_id]
        with self._monitor.watching_for_loss():
            try:
                return backend.load(handle, request, fill, token)
            except OutOfMemoryError:
                # There is headroom, but maybe not in one piece.
                backend.trim(request.device_id)
                backend.defragment(request.device_id)
                return backend.load(handle, request, fill, token)

    def _bring_back(
        self, copy: Residence, view: memoryview | None, write: Write, token: CancelToken, done: Done
    ) -> None:
        source = self._backends[copy.device_id].view(copy.handle, writable=False)
        if source is None:
            raise AssertionError(copy)
        for start in range(0, copy.size_bytes, COPY_CHUNK_BYTES):
            token.check()
            with source[start : start + COPY_CHUNK_BYTES] as piece:
                if view is not None:
                    view[start : start + len(piece)] = piece
                else:
                    write(start, piece)
                done(start + len(piece))

    def process_growth(self, device_id: str) -> Callable[[], int | None]:
        """Return what tells the growth since now of the process that has a device, if the headroom held by then is the only one.

        That is this one, or the device's own: then what carries bytes there is no part of a model. None where other
        memory was acquired or given back meanwhile: its share can't be told.
        """
        backend, measure = self._backends[device_id], self._process_bytes
        if isinstance(backend, OwnProcess):
            measure = partial(_private_bytes_of, backend, backend.pid)
        before, changes = measure(), self._usage.exclusive_changes()

        def growth() -> int | None:
            after = measure()
            if before is None or after is None or changes is None:
                return None
            return max(0, after - before) if self._usage.exclusive_changes() == changes else None

        return growth

    # ---- going ----

    def offload(self, residence: Residence, request: AllocationRequest, handle: str) -> Residence:
        """Copy a block to host memory, under another handle."""
        source = self._backends[residence.device_id]
        never = CancelToken(self._clock.now_ns)

        def fill(view: memoryview | None, _write: Write) -> None:
            if view is None:
                raise AssertionError(handle)
            with view[: residence.size_bytes] as whole:
                copy_out(source, residence.handle, whole, never, no_progress)

        with self._monitor.watching_for_loss():
            block = self._backends[HOST].load(handle, request, fill, never)
        self._tensors[handle] = self._tensors[residence.handle]
        self._identities[handle] = self._identities.get(residence.handle)
        return Residence(HOST, handle, residence.size_bytes, block.actual_bytes)

    def unload(self, residence: Residence) -> Receipt:
        """Give a block, an object or an engine's model up. Returns what went back to the system."""
        self._tensors.pop(residence.handle, None)
        self._identities.pop(residence.handle, None)
        if residence.engine:
            return self.engines.unload(residence)
        if residence.handle in self._objects.live():
            step, returned = "the worker dropped the object", self._objects.unload(residence.handle)
        else:
            returned = self._backends[residence.device_id].unload(residence.handle)
            step = "the device gave the block back"
        return Receipt(residence.size_bytes, returned, (ReleaseStep(step, returned),))

    def shrink(self, entry: ModelEntry, residence: Residence) -> Receipt:
        """Have a model give back what it keeps beside its weights: only engines keep such. EngineLostError."""
        return self.engines.shrink(entry.model_id, residence) if residence.engine else Receipt(0, 0)

    # ---- being used ----

    def tensors(self, residence: Residence) -> tuple[TensorInfo, ...] | None:
        """Return how a model's tensors lie in its block; None for one that the operator's code made."""
        return self._tensors.get(residence.handle)

    def content(self, residence: Residence) -> object:
        """Return what the operator's code made."""
        return self._objects.get(residence.handle)

    def view(self, residence: Residence) -> memoryview | None:
        """Return a model's bytes, where the worker can address them."""
        return self._backends[residence.device_id].view(residence.handle, writable=False)

    def read(self, residence: Residence, offset: int, into: memoryview) -> None:
        """Copy out of a model's block."""
        token = CancelToken(self._clock.now_ns)
        with self._monitor.watching_for_loss():
            self._backends[residence.device_id].read(residence.handle, offset, into, token)

    def is_stale(self, residence: Residence) -> bool:
        """Tell whether a model lies in a file that is not any more what was mapped."""
        backend = self._backends[residence.device_id]
        return isinstance(backend, MapsFiles) and backend.is_stale(residence.handle)

    def was_replaced(self, residence: Residence) -> bool | None:
        """Tell whether a model's files are others by now, where they are declared; None where one is gone."""
        loaded = self._identities.get(residence.handle)
        if loaded is None:
            return False
        now = identity_of(tuple(each[0] for each in loaded))
        return None if now is None else now != loaded

    def work_there(
        self, model_id: str, residence: Residence, make_work: Callable[[], RemoteWork], token: CancelToken,
        report: Report,
    ) -> tuple[Any] | None:  # fmt: skip
        """Do work where a model is and return its result; None where that is here."""
        if residence.engine:
            return (self.engines.work(model_id, residence, make_work(), token, report),)
        backend = self._backends[residence.device_id]
        if not isinstance(backend, OwnProcess):
            return None
        with self._monitor.watching_for_loss():
            return (backend.work(residence.handle, make_work(), token, report),)

    def live(self) -> frozenset[str]:
        """Return the handles of all models that are objects."""
        return self._objects.live()


def _private_bytes_of(backend: OwnProcess, pid: int | None) -> int | None:
    """Return what a device's process takes; None where it is another by now."""
    return private_bytes(pid) if pid is not None and pid == backend.pid else None
