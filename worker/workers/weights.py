"""Models' weights in memory: filled from a file, the operator's code or a copy, read, and given back."""

from collections.abc import Callable, Mapping
from typing import Any

from protocol.record import Record
from worker.backends.base import COPY_CHUNK_BYTES, DeviceBackend, MapsFiles, OwnProcess, RemoteWork, Write
from worker.backends.pieces import Done
from worker.core.cancellation import CancelToken
from worker.core.clock import Clock
from worker.core.errors import OutOfMemoryError
from worker.core.models import TensorInfo
from worker.core.records import AllocationRequest, Block, Report
from worker.loaders.base import CheckedLoader, FileLoader, ObjectLoader, WeightFile
from worker.loaders.mapping import map_weights
from worker.loaders.placing import place, place_through
from worker.loaders.registry import loader_of
from worker.manager.model_table import ModelEntry, Residence
from worker.manager.models import HOST
from worker.watch.device_monitor import DeviceWatch
from worker.workers.model_objects import ModelObjects


class Source(Record):
    """What a model is loaded from: its file, the operator's own code, or its copy in host memory."""

    size_bytes: int
    file: WeightFile | None = None
    loader: ObjectLoader | None = None
    copy: Residence | None = None

    def close(self) -> None:
        """Give the file up. Idempotent."""
        if self.file is not None:
            self.file.close()


class ModelBlocks:
    """Every model's block or object, by handle."""

    def __init__(
        self,
        backends: Mapping[str, DeviceBackend],
        watch: DeviceWatch,
        clock: Clock,
        objects: ModelObjects,
    ) -> None:
        self._backends = backends
        self._watch = watch
        self._clock = clock
        self._objects = objects
        # Mutable: how each loaded model's tensors lie in its block, by handle.
        self._tensors: dict[str, tuple[TensorInfo, ...]] = {}

    # ---- coming ----

    def open(self, entry: ModelEntry) -> Source:
        """Open what a model is loaded from, and check all of it that can be checked without loading it."""
        if entry.host_copy is not None:
            return Source(entry.host_copy.size_bytes, copy=entry.host_copy)
        loader = loader_of(entry.spec)
        if isinstance(loader, FileLoader):
            file = loader.open(entry.spec)
            entry.estimated_bytes = file.total_bytes
            return Source(max(1, file.total_bytes), file)
        if isinstance(loader, CheckedLoader):
            loader.check(entry.spec)
        return Source(max(1, entry.known_bytes or 0), loader=loader)

    def load(
        self,
        entry: ModelEntry,
        source: Source,
        device_id: str,
        handle: str,
        token: CancelToken,
        report: Report,
    ) -> tuple[Block, int]:
        """Load into a block of this handle. Returns it and what the ledger is to count."""
        if source.loader is not None:
            make = source.loader.build
            block = self._objects.load(handle, lambda: make(entry.spec, device_id))
            return block, block.actual_bytes

        total, backend = source.size_bytes, self._backends[device_id]

        def done(completed: int) -> None:
            report(min(completed, total), total)

        if source.file is not None:
            mapped = map_weights(entry.spec, source.file, backend, handle, token, done)
            if mapped is not None:
                block, self._tensors[handle] = mapped
                return block, total
        block = self._copy(source, AllocationRequest(device_id, total, purpose="model"), handle, token, done)
        if source.file is not None:
            self._tensors[handle] = source.file.tensors
        elif source.copy is not None:
            self._tensors[handle] = self._tensors[source.copy.handle]
        return block, total

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
        with self._watch.watching_for_loss():
            try:
                return backend.load(handle, request, fill, token)
            except OutOfMemoryError:
                # There is room, but maybe not in one piece.
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

    # ---- going ----

    def offload(self, residence: Residence, request: AllocationRequest, handle: str) -> Residence:
        """Copy a block to host memory, under another handle."""
        source = self._backends[residence.device_id]
        never = CancelToken(self._clock.now_ns)

        def fill(view: memoryview | None, _write: Write) -> None:
            if view is None:
                raise AssertionError(handle)
            for start in range(0, residence.size_bytes, COPY_CHUNK_BYTES):
                with view[start : start + COPY_CHUNK_BYTES] as piece:
                    source.read(residence.handle, start, piece, never)

        with self._watch.watching_for_loss():
            block = self._backends[HOST].load(handle, request, fill, never)
        self._tensors[handle] = self._tensors[residence.handle]
        return Residence(HOST, handle, residence.size_bytes, block.actual_bytes)

    def unload(self, residence: Residence) -> int | None:
        """Give a block or object up. Returns what went back to the system; None where that can't be told."""
        self._tensors.pop(residence.handle, None)
        if residence.handle in self._objects.live():
            return self._objects.unload(residence.handle)
        return self._backends[residence.device_id].unload(residence.handle)

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
        with self._watch.watching_for_loss():
            self._backends[residence.device_id].read(residence.handle, offset, into, token)

    def is_stale(self, residence: Residence) -> bool:
        """Tell whether a model lies in a file that is not any more what was mapped."""
        backend = self._backends[residence.device_id]
        return isinstance(backend, MapsFiles) and backend.is_stale(residence.handle)

    def work_there(
        self, residence: Residence, make_work: Callable[[], RemoteWork], token: CancelToken, report: Report
    ) -> tuple[Any] | None:
        """Do work where a model is and return its result; None where that is here."""
        backend = self._backends[residence.device_id]
        if not isinstance(backend, OwnProcess):
            return None
        with self._watch.watching_for_loss():
            return (backend.work(residence.handle, make_work(), token, report),)

    def live(self) -> frozenset[str]:
        """Return the handles of all models that are objects."""
        return self._objects.live()
