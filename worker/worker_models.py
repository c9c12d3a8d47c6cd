"""Loading and unloading models: hold room, unload what goes for it, load, enter; or roll back."""

from collections.abc import Callable, Mapping
from contextlib import suppress

from protocol.record import Record
from protocol.results import Eviction, ModelUnloadedData, UnloadedModel
from protocol.vocabulary import DeviceState, EventName, UnloadMode
from worker.backends.base import COPY_CHUNK_BYTES, DeviceBackend, Write
from worker.books.history import History
from worker.books.model_book import ModelEntry, Residence
from worker.cancellation import CancelToken
from worker.clock import NS_PER_MS, Clock
from worker.device_watch import DeviceWatch, Publish
from worker.errors import ModelLoadFailedError, OutOfMemoryError, UnsupportedError, WorkerError
from worker.loaders.base import FileLoader, ObjectLoader, TensorInfo, WeightFile
from worker.loaders.placing import place, place_through
from worker.loaders.registry import loader_of
from worker.manager_memory import MemoryManager
from worker.manager_models import HOST, Fenced, ModelManager, Room
from worker.model_objects import ModelObjects
from worker.records import AllocationRequest, Block, Report, Reservation

_WITH_HEADER = frozenset({"safetensors"})
"""Loaders that read a size from a file's first bytes; others import torch for it, or run the model's code."""


class Taken(Record):
    """A lease on a loaded model, and what went for it."""

    entry: ModelEntry
    residence: Residence
    unloaded: tuple[UnloadedModel, ...]


class _Source(Record):
    """What a model is loaded from: its file, the operator's own code, or its copy in host memory."""

    size_bytes: int
    file: WeightFile | None = None
    loader: ObjectLoader | None = None
    copy: Residence | None = None


class ModelWorker:
    """One load or unload at a time for each model, each all or nothing."""

    def __init__(
        self,
        manager: MemoryManager,
        models: ModelManager,
        backends: Mapping[str, DeviceBackend],
        watch: DeviceWatch,
        history: History,
        clock: Clock,
        publish: Publish,
        objects: ModelObjects,
        default_device: str | None,
        on_closed: Callable[[], None] = lambda: None,
    ) -> None:
        self.models = models
        self._manager = manager
        self._backends = backends
        self._watch = watch
        self._history = history
        self._clock = clock
        self._publish = publish
        self._objects = objects
        self._asked_default = default_device
        self._on_closed = on_closed
        # Mutable: how each loaded model's tensors lie in its block, by handle.
        self._tensors: dict[str, tuple[TensorInfo, ...]] = {}

    # ---- loading ----

    def take(
        self, model_id: str, token: CancelToken, report: Report = lambda _completed, _total: None, *,
        device_id: str | None = None, make_room: bool = True, wait_ns: int = 0,
    ) -> Taken:  # fmt: skip
        """Take a lease on a model, loading it first if need be. Whoever calls releases it.

        ``wait_ns``: how long to wait for others' leases to end where only they stand in the way.

        Raises:
            ModelNotFoundError: not configured.
            ModelBusyError: it is to come to another device and is in use where it is.
            ModelLoadFailedError: with the cause.
            OutOfMemoryError, LimitExceededError: no room, and none to be made.
        """
        until_ns = self._clock.now_ns() + wait_ns if wait_ns else None
        while True:
            residence = self.models.begin(model_id, token)
            entry = self.models.book.get(model_id)
            if residence is None:
                return self._load(entry, device_id, token, report, make_room=make_room, until_ns=until_ns)
            if device_id is None or residence.device_id == device_id:
                return Taken(entry, residence, ())
            try:
                self._check_move(entry, residence, device_id, make_room=make_room)
            finally:
                self.models.release(model_id, residence.handle)
            self.unload(model_id, token, reason=f"unloaded: it is to be on {device_id}", forced=True)

    def _check_move(
        self, entry: ModelEntry, residence: Residence, device_id: str, *, make_room: bool
    ) -> None:
        """Refuse to take a loaded model to a device where it could not be loaded: it would be gone here too."""
        if residence.handle in self._objects.live():
            raise _made_here(entry, device_id)
        with self._watch.watching_for_loss():
            self._watch.refresh(_with_host(device_id), max_age_ms=0, forced=True)
        self.models.check_room(AllocationRequest(device_id, residence.size_bytes), make_room=make_room)

    def _load(
        self, entry: ModelEntry, device_id: str | None, token: CancelToken, report: Report, *,
        make_room: bool, until_ns: int | None,
    ) -> Taken:  # fmt: skip
        """Load a model that is this thread's to load.

        1. Its source is opened: what is wrong with that is found before anything goes for its sake.
        2. Room is held, and what is in its way is unloaded.
        3. It is loaded and entered; any failure takes all of that back.
        """
        room, source = None, None
        unloaded: list[UnloadedModel] = []
        try:
            source = self._open(entry)  # 1
            target = self._choose_device(entry, source, device_id, token)
            room = self._hold_room(entry, source, target, token, make_room=make_room, until_ns=until_ns)  # 2
            unloaded.extend(self._unload_all(room))
            started_ns = self._clock.now_ns()
            block, size = self._load_source(entry, source, room, token, report)  # 3
            took_ms = (self._clock.now_ns() - started_ns) // NS_PER_MS
            residence = self._enter(entry, source, room, block, size, took_ms)
        except BaseException as error:
            self.models.failed(entry, room, blamed=isinstance(error, ModelLoadFailedError))
            raise
        finally:
            if source is not None and source.file is not None:
                source.file.close()
        self._look((residence.device_id,))
        return Taken(entry, residence, tuple(unloaded))

    def _open(self, entry: ModelEntry) -> _Source:
        if entry.host_copy is not None:
            return _Source(entry.host_copy.size_bytes, copy=entry.host_copy)
        loader = loader_of(entry.spec)
        if isinstance(loader, FileLoader):
            file = loader.open(entry.spec)
            entry.estimated_bytes = file.total_bytes
            return _Source(max(1, file.total_bytes), file)
        return _Source(max(1, entry.known_bytes or 0), loader=loader)

    def _choose_device(
        self, entry: ModelEntry, source: _Source, asked: str | None, token: CancelToken
    ) -> str:
        """Choose where a model goes: as asked, as declared, else the default or the first other with room.

        A device that is being probed is waited for, where it would be the one.
        """
        if source.loader is not None and asked not in {None, HOST}:
            raise _made_here(entry, asked)
        fixed = HOST if source.loader is not None else asked or entry.spec.device_id
        if fixed is not None:
            self._watch.wait_until_known((fixed,), token)
            return self._manager.device(fixed).device_id
        self._watch.wait_until_known((self._manager.default_device(self._asked_default, HOST),), token)
        default = self._manager.default_device(self._asked_default, HOST)
        choice = (default, *(each for each in self._manager.device_ids() if each != default))
        self._watch.refresh(choice, max_age_ms=0)
        with_room = (each for each in choice if self._has_room(each, source.size_bytes))
        return next(with_room, default)

    def _has_room(self, device_id: str, size_bytes: int) -> bool:
        there = self._manager.device(device_id).state is DeviceState.AVAILABLE
        return there and not self._manager.missing_bytes(device_id, size_bytes)

    def _hold_room(
        self, entry: ModelEntry, source: _Source, device_id: str, token: CancelToken, *,
        make_room: bool, until_ns: int | None,
    ) -> Room:  # fmt: skip
        request = AllocationRequest(device_id, source.size_bytes, purpose="model")
        while True:
            with self._watch.watching_for_loss():
                self._watch.refresh(_with_host(device_id), max_age_ms=0, forced=True)
            room = self.models.hold_room(request, entry, token, make_room=make_room, until_ns=until_ns)
            if room is not None:
                return room

    def _load_source(
        self, entry: ModelEntry, source: _Source, room: Room, token: CancelToken, report: Report
    ) -> tuple[Block, int]:
        """Load into a block of the room's handle. Returns it and what the ledger is to count."""
        handle, request = self.models.handle_of(room), room.reservation.request
        if source.loader is not None:
            make = source.loader.build
            block = self._objects.load(handle, lambda: make(entry.spec, request.device_id))
            return block, block.actual_bytes

        def fill(view: memoryview | None, write: Write) -> None:
            total = source.size_bytes
            if source.copy is not None:
                self._bring_back(source.copy, view, write, token, lambda done: report(done, total))
            elif source.file is not None and view is not None:
                place(source.file, view, token, lambda done: report(done, total))
            elif source.file is not None:
                place_through(source.file, write, token, lambda done: report(done, total))

        backend = self._backends[request.device_id]
        with self._watch.watching_for_loss():
            try:
                block = backend.load(handle, request, fill, token)
            except OutOfMemoryError:
                # There is room, but maybe not in one piece.
                backend.trim(request.device_id)
                backend.defragment(request.device_id)
                block = backend.load(handle, request, fill, token)
        return block, request.size_bytes

    def _bring_back(
        self,
        copy: Residence,
        view: memoryview | None,
        write: Write,
        token: CancelToken,
        done: Callable[[int], None],
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

    def _enter(
        self, entry: ModelEntry, source: _Source, room: Room, block: Block, size: int, took_ms: int
    ) -> Residence:
        handle = self.models.handle_of(room)
        if source.file is not None:
            self._tensors[handle] = source.file.tensors
        elif source.copy is not None:
            self._tensors[handle] = self._tensors[source.copy.handle]
            entry.restore_ms = took_ms
        load_ms = None if source.copy is not None else took_ms
        try:
            residence = self.models.arrived(entry, room, size, block.actual_bytes, load_ms)
        except BaseException:
            self._unload_block(Residence(room.reservation.request.device_id, handle, 0, 0))
            raise
        copy = self.models.drop_host_copy(entry)
        if copy is not None:
            self._unload_block(copy)
        return residence

    # ---- unloading ----

    def unload(
        self, model_id: str, token: CancelToken, mode: UnloadMode = UnloadMode.UNLOAD, *,
        reason: str = "unloaded: as asked", forced: bool = False,
    ) -> UnloadedModel:  # fmt: skip
        """Unload a model. ModelNotFoundError, or ModelBusyError if it is in use or pinned."""
        offload = mode is UnloadMode.OFFLOAD
        if offload:
            self._watch.refresh((HOST,), max_age_ms=0)
            reason = "offloaded to host memory: as asked"
        fenced = self.models.fence(model_id, reason, token=token, forced=forced, offload=offload)
        if fenced is not None:
            return self._unload_and_look(fenced)
        entry = self.models.book.get(model_id)
        copy = None if offload else self.models.drop_host_copy(entry)
        if copy is not None:
            returned = self._unload_block(copy)
            self._look((copy.device_id,))
            return UnloadedModel(
                model_id, copy.size_bytes, returned, entry.load_ms, "unloaded from host memory: as asked"
            )
        return UnloadedModel(model_id, 0, 0, entry.load_ms, f"nothing to unload: it is {entry.state}")

    def expire(self, model_id: str) -> None:
        """Unload a model that has been idle past its keep-alive; one that was used again stays."""
        fenced = self.models.fence_expired(model_id)
        if fenced is not None:
            self._unload_and_look(fenced)

    def evict(
        self, model_id: str, reason: str, *, forced: bool = False, offload: bool = False
    ) -> UnloadedModel | None:
        """Unload a model by plan; None if it is not loaded any more. ModelBusyError if it came into use."""
        fenced = self.models.fence(model_id, reason, forced=forced, offload=offload)
        return None if fenced is None else self._unload_and_look(fenced)

    def reserve_making_room(
        self, name: str, request: AllocationRequest, token: CancelToken
    ) -> tuple[Reservation, tuple[UnloadedModel, ...]]:
        """Hold room for an allocation, unloading what has to go. Errors as ``take``."""
        while True:
            self._watch.refresh(_with_host(request.device_id), max_age_ms=0, forced=True)
            room = self.models.hold_room(request, None, token, make_room=True, name=name)
            if room is not None:
                return room.reservation, self._unload_all(room)

    def _unload_all(self, room: Room) -> tuple[UnloadedModel, ...]:
        """Unload every fenced model, whatever fails: a fence that stayed would keep others waiting for ever."""
        return tuple(self._unload_fenced(each) for each in room.fenced)

    def _unload_and_look(self, fenced: Fenced) -> UnloadedModel:
        unloaded = self._unload_fenced(fenced)
        self._look((fenced.residence.device_id, *((HOST,) if fenced.host_room is not None else ())))
        return unloaded

    def _unload_fenced(self, fenced: Fenced) -> UnloadedModel:
        residence, entry, copy, returned = fenced.residence, fenced.entry, None, None
        reason = fenced.reason
        if fenced.host_room is not None:
            try:
                with self._watch.watching_for_loss():
                    copy = self._offload(fenced, fenced.host_room)
            except WorkerError as error:
                reason = f"{reason}; unloaded instead, for offloading failed: {error.message}"
        try:
            returned = self._unload_block(residence)
        finally:
            self.models.gone(fenced, copy)
        row = UnloadedModel(entry.model_id, residence.size_bytes, returned, fenced.reload_ms, reason)
        device_id, freed = residence.device_id, residence.size_bytes
        self._history.record_eviction(Eviction(entry.model_id, device_id, 0, freed, returned, reason))
        data = ModelUnloadedData(entry.model_id, device_id, freed, returned, reason)
        self._publish(EventName.MODEL_UNLOADED, entry.model_id, data)
        return row

    def _offload(self, fenced: Fenced, room: Reservation) -> Residence:
        residence = fenced.residence
        handle, source = room.allocation_id, self._backends[residence.device_id]
        never = CancelToken(self._clock.now_ns)

        def fill(view: memoryview | None, _write: Write) -> None:
            if view is None:
                raise AssertionError(handle)
            for start in range(0, residence.size_bytes, COPY_CHUNK_BYTES):
                with view[start : start + COPY_CHUNK_BYTES] as piece:
                    source.read(residence.handle, start, piece, never)

        block = self._backends[HOST].load(handle, room.request, fill, never)
        self._tensors[handle] = self._tensors[residence.handle]
        return Residence(HOST, handle, residence.size_bytes, block.actual_bytes)

    def _unload_block(self, residence: Residence) -> int | None:
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

    def live(self) -> frozenset[str]:
        """Return the handles of all models that are objects."""
        return self._objects.live()

    def estimate(self) -> None:
        """Read what models will take, where a header says so without anything being imported for it."""
        for entry in self.models.book:
            if entry.spec.loader in _WITH_HEADER:
                with suppress(ModelLoadFailedError):  # loading it says why
                    entry.estimated_bytes = loader_of(entry.spec).estimate(entry.spec)

    def close(self) -> None:
        """Unload everything that is not in use, and tell nobody: the worker ends."""
        for entry in self.models.book:
            with suppress(WorkerError):
                fenced = self.models.fence(entry.model_id, "unloaded: the worker ends", forced=True)
                if fenced is not None:
                    self._unload_block(fenced.residence)
                    self.models.gone(fenced, None)
            copy = self.models.drop_host_copy(entry)
            if copy is not None:
                self._unload_block(copy)
        self._on_closed()

    def _look(self, device_ids: tuple[str, ...]) -> None:
        with suppress(WorkerError):
            self._watch.refresh(device_ids, max_age_ms=0)
            self._watch.observe(device_ids)


def _made_here(entry: ModelEntry, device_id: str | None) -> UnsupportedError:
    message = f"model {entry.model_id!r} is made by the operator's code, in host memory"
    return UnsupportedError(message, model_id=entry.model_id, device_id=device_id)


def _with_host(device_id: str) -> tuple[str, ...]:
    """Return a device, and host memory, where its models may go."""
    return tuple(dict.fromkeys((device_id, HOST)))
