"""Loading and unloading models: hold room, unload what goes for it, load, enter; or roll back."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from protocol.record import Record
from protocol.results import UnloadedModel
from protocol.vocabulary import DeviceState, Executed, UnloadMode
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS, Clock
from worker.core.errors import (
    InvalidRequestError,
    LimitExceededError,
    ModelLoadFailedError,
    OutOfMemoryError,
    UnsupportedError,
    WorkerError,
)
from worker.core.events import Publish
from worker.core.log import log
from worker.core.records import AllocationRequest, Report, Reservation
from worker.loaders.registry import BUILT_IN, loader_of
from worker.manager.footprints import FootprintMargins
from worker.manager.manager_memory import MemoryManager
from worker.manager.model_rooms import Asking, Room
from worker.manager.model_table import ModelEntry, Residence
from worker.manager.models import HOST, ModelManager
from worker.metrics.history import History
from worker.watch.device_monitor import DeviceWatch
from worker.workers.model_owners import Answers, ExternalWorker
from worker.workers.model_unload import ModelUnloader
from worker.workers.process_growth import ProcessGrowth
from worker.workers.weights import ModelBlocks, Source

_WITH_HEADER = frozenset(BUILT_IN) - {"module"}
"""Loaders that read a size from a file without importing anything heavy, or running the model's code."""


CheckUnused = Callable[[tuple[str, ...], CancelToken], None]
JoinPieces = Callable[[AllocationRequest, CancelToken, CheckUnused], object]
"""Joins a device's free memory where what is needed is there, but in pieces that cannot be joined in place."""


class Taken(Record):
    """A model that was loaded or used, by a lease or a hold on it, and what went for it."""

    entry: ModelEntry
    residence: Residence
    unloaded: tuple[UnloadedModel, ...]
    fallback_reason: str | None = None
    """Why it is not the model that was asked for."""


class ModelWorker:
    """One load or unload at a time for each model, each all or nothing."""

    def __init__(
        self,
        manager: MemoryManager,
        models: ModelManager,
        blocks: ModelBlocks,
        external: ExternalWorker,
        watch: DeviceWatch,
        history: History,
        clock: Clock,
        publish: Publish,
        default_device: str | None,
        growth: ProcessGrowth,
        join_pieces: JoinPieces,
    ) -> None:
        self.models = models
        self.blocks = blocks
        self.external = external
        self._manager = manager
        self._watch = watch
        self._clock = clock
        self._unloader = ModelUnloader(models, blocks, watch, history, publish)
        self._asked_default = default_device
        self._growth = growth
        self._join_pieces = join_pieces
        self._margins = FootprintMargins()
        # Mutable, as the margins are: whether the worker ends, and brings nothing back any more.
        self._closing = False

    # ---- loading ----

    def take(
        self, model_id: str, token: CancelToken, *, device_id: str | None = None, wait_ns: int = 0,
        fallback: bool = False,
    ) -> Taken:  # fmt: skip
        """Take a lease on a model, loading it first if need be. Whoever calls releases it. Errors as ``hold``."""
        taken = self.hold(
            model_id, token, _no_report, device_id=device_id, wait_ns=wait_ns, fallback=fallback
        )
        self.models.lease(taken.entry.model_id, taken.residence.handle)
        return taken

    def hold(
        self, model_id: str, token: CancelToken, report: Report, *, device_id: str | None = None,
        make_room: bool = True, wait_ns: int = 0, fallback: bool = False,
    ) -> Taken:  # fmt: skip
        """Use a model, loading it first if need be, and hold it: whoever calls lets go of it, at once.

        ``wait_ns``: how long to wait for others' leases to end where only they stand in the way.
        ``fallback``: where there is no room, take the model that is declared for that, and so on down the line.

        Raises:
            ModelNotFoundError: not configured.
            ModelBusyError: it is to come to another device and is in use where it is.
            ModelLoadFailedError: with the cause.
            OutOfMemoryError, LimitExceededError: no room, and none to be made.
            UnsupportedError: another process holds it.
        """
        try:
            return self._take(model_id, token, report, device_id, make_room=make_room, wait_ns=wait_ns)
        except (OutOfMemoryError, LimitExceededError) as error:
            refused, tried = error, list[str]()
        instead = self.models.book.get(model_id).spec.fallback if fallback else None
        while instead is not None:
            tried.append(instead)
            try:
                taken = self._take(instead, token, report, device_id, make_room=make_room, wait_ns=wait_ns)
            except (OutOfMemoryError, LimitExceededError):
                instead = self.models.book.get(instead).spec.fallback
                continue
            why = f"{model_id!r} does not fit: {refused.message}; {instead!r} was loaded instead"
            gone = (*refused.details.get("models_unloaded", ()), *taken.unloaded)
            return replace(taken, unloaded=gone, fallback_reason=why)
        if tried:
            refused.details["fallbacks_tried"] = tried
        raise refused

    def _take(
        self, model_id: str, token: CancelToken, report: Report, device_id: str | None, *,
        make_room: bool, wait_ns: int,
    ) -> Taken:  # fmt: skip
        until_ns = self._clock.now_ns() + wait_ns if wait_ns else None
        if self.models.book.get(model_id).spec.external:
            message = f"model {model_id!r} is held by another process: there is nothing of it here to use"
            raise UnsupportedError(message, model_id=model_id, device_id=device_id)
        while True:
            residence = self.models.begin(model_id, token)
            entry = self.models.book.get(model_id)
            if residence is None:
                return self._load(entry, device_id, token, report, make_room=make_room, until_ns=until_ns)
            stays = False
            try:
                stale = self.blocks.is_stale(residence)
                stays = not stale and (device_id is None or residence.device_id == device_id)
            finally:
                if not stays:  # before anything is waited for: two moves might wait for each other
                    self.models.let_go(model_id, residence.handle)
            if stays:
                self.models.use(model_id, residence.handle)
                return Taken(entry, residence, ())
            if device_id is not None and residence.device_id != device_id:
                self._check_move(entry, residence, device_id, token, make_room=make_room)
            why = "its file was written to" if stale else f"it is to be on {device_id}"
            self.unload(model_id, token, reason=f"unloaded: {why}", forced=True)

    def _check_move(
        self, entry: ModelEntry, residence: Residence, device_id: str, token: CancelToken, *, make_room: bool
    ) -> None:
        """Refuse to take a loaded model to a device where it could not be loaded: it would be gone here too."""
        if residence.handle in self.blocks.live():
            raise _made_here(entry, device_id)
        request, checked = AllocationRequest(device_id, residence.size_bytes), False
        while not checked:
            with self._watch.watching_for_loss():
                self._watch.refresh(_with_host(device_id), max_age_ms=0, forced=True)
            checked = self.models.check_room(request, token, make_room=make_room)

    def _load(
        self, entry: ModelEntry, device_id: str | None, token: CancelToken, report: Report, *,
        make_room: bool, until_ns: int | None, for_use: bool = True,
    ) -> Taken:  # fmt: skip
        """Load a model that is this thread's to load.

        1. Its source is opened: what is wrong with that is found before anything goes for its sake.
        2. Room is held, and what is in its way is unloaded.
        3. It is loaded and entered; any failure takes all of that back.
        4. What went for it is brought back, too.
        """
        room, source = None, None
        unloaded: list[UnloadedModel] = []
        try:
            source = self.blocks.open(entry)  # 1
            target = self._choose_device(entry, source, device_id, token)
            room, owners = self._hold_room(
                entry, source, target, token, make_room=make_room, until_ns=until_ns
            )  # 2
            unloaded += owners
            self._unloader.unload_all(room, unloaded)
            residence = self._fill(entry, source, room, token, report, for_use=for_use)  # 3
        except BaseException as error:
            self.models.failed(entry, room, blamed=isinstance(error, ModelLoadFailedError))
            if room is not None:
                self.bring_back(unloaded, room.reservation.request.device_id, error)  # 4
            raise
        finally:
            if source is not None:
                source.close()
        self._unloader.look((residence.device_id,))
        return Taken(entry, residence, tuple(unloaded))

    @property
    def default_device(self) -> str:
        """The device of models that name none."""
        return self._manager.default_device(self._asked_default, HOST)

    def _choose_device(self, entry: ModelEntry, source: Source, asked: str | None, token: CancelToken) -> str:
        """Choose where a model goes: as asked, as declared, else the default or the first other with room.

        A device that is being probed is waited for, where it would be the one.
        """
        if source.loader is not None and asked not in {None, HOST}:
            raise _made_here(entry, asked)
        fixed = HOST if source.loader is not None else asked or entry.spec.device_id
        if fixed is not None:
            self._watch.wait_until_known((fixed,), token)
            return self._manager.device(fixed).device_id
        self._watch.wait_until_known((self.default_device,), token)
        default = self.default_device
        choice = (default, *(each for each in self._manager.device_ids() if each != default))
        self._watch.refresh(choice, max_age_ms=0)
        with_room = (each for each in choice if self._has_room(each, source.size_bytes))
        return next(with_room, default)

    def _has_room(self, device_id: str, size_bytes: int) -> bool:
        there = self._manager.device(device_id).state is DeviceState.AVAILABLE
        return there and not self._manager.missing_bytes(device_id, size_bytes)

    def _hold_room(
        self, entry: ModelEntry, source: Source, device_id: str, token: CancelToken, *,
        make_room: bool, until_ns: int | None,
    ) -> tuple[Room, tuple[UnloadedModel, ...]]:  # fmt: skip
        size = source.size_bytes
        if source.loader is not None and entry.measured_bytes is None:
            size = self._margins.expected_bytes(entry.spec.loader, device_id, size)
        request = AllocationRequest(device_id, size, purpose="model")
        if make_room and device_id != HOST:
            with self._watch.watching_for_loss():
                self._watch.refresh((device_id,), max_age_ms=0)
                self._join_pieces(request, token, self.models.check_unused)
        return self._room(request, entry, token, make_room=make_room, until_ns=until_ns)

    def _room(
        self, request: AllocationRequest, entry: ModelEntry | None, token: CancelToken, *,
        make_room: bool, until_ns: int | None = None, name: str | None = None,
    ) -> tuple[Room, tuple[UnloadedModel, ...]]:  # fmt: skip
        """Hold room. Returns it, and what owners have unloaded for it."""
        asked: Answers = {}
        while True:
            with self._watch.watching_for_loss():
                self._watch.refresh(_with_host(request.device_id), max_age_ms=0, forced=True)
            in_vain = {each: said for each, said in asked.items() if isinstance(said, str)}
            gone = tuple(said for said in asked.values() if isinstance(said, UnloadedModel))
            try:
                room = self.models.hold_room(
                    request, entry, token, make_room=make_room, until_ns=until_ns, name=name, asked=in_vain
                )
            except WorkerError as error:
                _name_gone(error, gone)
                raise
            if isinstance(room, Asking):
                reason = f"{request.size_bytes} bytes are needed on {request.device_id}"
                asked |= self.external.ask(room.model_ids, reason, token)
            elif room is not None:
                return room, gone

    def _fill(
        self, entry: ModelEntry, source: Source, room: Room, token: CancelToken, report: Report, *,
        for_use: bool,
    ) -> Residence:  # fmt: skip
        """Load into the room, and enter what it turned out to take."""
        device_id, handle = room.reservation.request.device_id, self.models.handle_of(room)
        started_ns, grown = self._clock.now_ns(), self._growth.begin()
        block, size = self.blocks.load(entry, source, device_id, handle, token, report)
        took_ms = (self._clock.now_ns() - started_ns) // NS_PER_MS
        if source.copy is not None:
            entry.restore_ms = took_ms
        else:
            entry.measured_process_bytes = grown()
        if source.loader is not None and entry.measured_bytes is None:
            self._margins.note(entry.spec.loader, device_id, source.size_bytes, block.actual_bytes)
        load_ms = None if source.copy is not None else took_ms
        try:
            residence = self.models.arrived(entry, room, size, block.actual_bytes, load_ms, for_use=for_use)
        except BaseException:
            self.blocks.unload(Residence(device_id, handle, 0, 0))
            raise
        copy = self.models.drop_host_copy(entry)
        if copy is not None:
            self.blocks.unload(copy)
        return residence

    def bring_back(self, unloaded: list[UnloadedModel], device_id: str, error: BaseException) -> None:
        """Load again what went for something that then failed, the last first, so that it is as before.

        Best effort: what does not come back is named in the error, which then says that something was done.
        """
        gone: list[UnloadedModel] = []
        for row in reversed(unloaded):
            entry = self.models.book.get(row.model_id)
            try:
                if entry.spec.external or self._closing:
                    gone.insert(0, row)
                elif self.models.begin_return(entry):
                    never = CancelToken(self._clock.now_ns)
                    self._load(
                        entry, device_id, never, _no_report, make_room=False, until_ns=None, for_use=False
                    )
            except WorkerError as failure:
                log("warning", "a model did not come back", model_id=row.model_id, error=failure.message)
                gone.insert(0, row)
        if isinstance(error, WorkerError):
            _name_gone(error, tuple(gone))

    # ---- unloading ----

    def unload(
        self, model_id: str, token: CancelToken, mode: UnloadMode = UnloadMode.UNLOAD, *,
        reason: str = "unloaded: as asked", forced: bool = False, by_owner: bool = False,
    ) -> UnloadedModel:  # fmt: skip
        """Unload a model, or ask its owner to; ``by_owner`` is the owner's word that it has.

        Raises:
            ModelNotFoundError: not configured.
            ModelBusyError: in use, pinned, or not unloaded by its owner.
            InvalidRequestError: the owner's word on a model that the worker holds itself.
        """
        entry = self.models.book.get(model_id)
        if by_owner:
            if entry.spec.external:
                return self.external.unloaded(model_id)
            raise InvalidRequestError.at("data.by_owner", f"model {model_id!r} is held by the worker itself")
        offload = mode is UnloadMode.OFFLOAD
        if entry.spec.external:
            return self.external.unload(entry, reason, token, offload=offload, forced=forced)
        if offload:
            self._watch.refresh((HOST,), max_age_ms=0)
            reason = "offloaded to host memory: as asked"
        fenced = self.models.fence(model_id, reason, token=token, forced=forced, offload=offload)
        if fenced is not None:
            return self._unloader.unload_and_look(fenced)
        copy = None if offload else self.models.drop_host_copy(entry)
        if copy is not None:
            returned = self.blocks.unload(copy)
            self._unloader.look((copy.device_id,))
            return UnloadedModel(
                model_id, copy.size_bytes, returned, entry.load_ms, "unloaded from host memory: as asked"
            )
        return UnloadedModel(model_id, 0, 0, entry.load_ms, f"nothing to unload: it is {entry.state}")

    def expire(self, model_id: str) -> None:
        """Unload a model that has been idle past its keep-alive, or ask its owner; one used again stays."""
        if self.models.book.get(model_id).spec.external:
            kept_ms = self.models.expired_after_ms(model_id)
            if kept_ms is not None:
                self.external.request(model_id, f"idle past its keep-alive of {kept_ms} ms")
            return
        fenced = self.models.fence_expired(model_id)
        if fenced is not None:
            self._unloader.unload_and_look(fenced)

    def evict(
        self, model_id: str, reason: str, token: CancelToken, *, forced: bool = False, offload: bool = False
    ) -> UnloadedModel | None:
        """Unload a model by plan; None if it is not loaded any more. ModelBusyError if it came into use."""
        fenced = self.models.fence(model_id, reason, token=token, forced=forced, offload=offload)
        return None if fenced is None else self._unloader.unload_and_look(fenced)

    def reserve_making_room(
        self, name: str, request: AllocationRequest, token: CancelToken, unloaded: list[UnloadedModel]
    ) -> Reservation:
        """Hold room for an allocation, unloading what has to go, which is added. Errors as ``take``."""
        room, owners = self._room(request, None, token, make_room=True, name=name)
        unloaded += owners
        try:
            self._unloader.unload_all(room, unloaded)
        except BaseException:
            self._manager.release(room.reservation)
            raise
        return room.reservation

    # ---- on its own ----

    def estimate(self) -> None:
        """Read what models will take, where a header says so without anything being imported for it."""
        for entry in self.models.book:
            if entry.spec.loader in _WITH_HEADER:
                with suppress(ModelLoadFailedError):  # loading it says why
                    entry.estimated_bytes = loader_of(entry.spec).estimate(entry.spec)

    def close(self) -> None:
        """Unload everything that is not in use, and tell nobody: the worker ends."""
        self._closing = True
        for entry in self.models.book:
            if entry.spec.external:
                self.models.let_go_outside(entry.model_id)
                continue
            with suppress(WorkerError):
                fenced = self.models.fence(entry.model_id, "unloaded: the worker ends", forced=True)
                if fenced is not None:
                    self.blocks.unload(fenced.residence)
                    self.models.gone(fenced, None)
            copy = self.models.drop_host_copy(entry)
            if copy is not None:
                self.blocks.unload(copy)


def _name_gone(error: WorkerError, gone: tuple[UnloadedModel, ...]) -> None:
    """Have an error say that models went, where some did: not all is as it was."""
    if gone:
        error.executed = Executed.YES
        error.details["models_unloaded"] = gone


def _no_report(_completed: int, _total: int) -> None:
    """Nobody asked for progress."""


def _made_here(entry: ModelEntry, device_id: str | None) -> UnsupportedError:
    message = f"model {entry.model_id!r} is made by the operator's code, in host memory"
    return UnsupportedError(message, model_id=entry.model_id, device_id=device_id)


def _with_host(device_id: str) -> tuple[str, ...]:
    """Return a device, and host memory, where its models may go."""
    return tuple(dict.fromkeys((device_id, HOST)))
