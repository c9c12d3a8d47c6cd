"""Loading and unloading models: hold headroom, unload what goes for it, load, commit; or roll back."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from protocol.record import Record
from protocol.results import RefusedModel, ReloadModelsResult, UnloadedModel
from protocol.vocabulary import DeviceState, Executed, ModelState, UnloadMode
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS
from worker.core.errors import (
    InvalidRequestError,
    LimitExceededError,
    ModelLoadFailedError,
    ModelNotFoundError,
    OutOfMemoryError,
    UnsupportedError,
    WorkerError,
)
from worker.core.log import log
from worker.core.models import ModelSpec, Role
from worker.core.records import HOST, AllocationRequest, EvictionCause, Report, Reservation, no_report
from worker.manager.footprints import FootprintMargins
from worker.manager.model_table import EvictingReservation, ModelEntry, Residence
from worker.manager.models import ModelManager
from worker.manager.plan_table import Plan
from worker.watch.device_monitor import DeviceMonitor
from worker.wiring import Core
from worker.workers.model_estimates import ModelEstimates
from worker.workers.model_owners import Answers, ExternalWorker
from worker.workers.model_unload import ModelUnloader
from worker.workers.model_waits import once_settled
from worker.workers.weights import ModelWeights, Source

CheckUnused = Callable[[tuple[str, ...], CancelToken], None]
JoinPieces = Callable[[AllocationRequest, CancelToken, CheckUnused], object]
"""Joins a device's free memory where what is needed is there, but in pieces that cannot be joined in place."""


class Acquired(Record):
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
        core: Core,
        models: ModelManager,
        weights: ModelWeights,
        external: ExternalWorker,
        monitor: DeviceMonitor,
        default_device: str | None,
        join_pieces: JoinPieces,
    ) -> None:
        self.models = models
        self.weights = weights
        self.external = external
        self._manager = core.manager
        self._table = core.manager.models
        self._monitor = monitor
        self._clock = core.clock
        self._unloader = ModelUnloader(core, models, weights, monitor)
        self._asked_default = default_device
        self._join_pieces = join_pieces
        self._margins = FootprintMargins()
        self.estimates = ModelEstimates(core.manager)
        # Mutable, as the margins are: whether the worker ends, and brings nothing back any more.
        self._closing = False

    # ---- loading ----

    def acquire(
        self, model_id: str, token: CancelToken, *, device_id: str | None = None, wait_ns: int = 0,
        fallback: bool = False,
    ) -> Acquired:  # fmt: skip
        """Acquire a lease on a model, loading it first if need be. Whoever calls releases it. Errors as ``hold``."""
        acquired = self.hold(
            model_id, token, no_report, device_id=device_id, wait_ns=wait_ns, fallback=fallback
        )
        self.models.lease(acquired.entry.model_id, acquired.residence.handle)
        return acquired

    def hold(
        self, model_id: str, token: CancelToken, report: Report, *, device_id: str | None = None,
        make_room: bool = True, wait_ns: int = 0, fallback: bool = False, plan: Plan | None = None,
    ) -> Acquired:  # fmt: skip
        """Use a model, loading it first if need be, and hold it: whoever calls lets go of it, at once.

        ``wait_ns``: how long to wait for others' leases to end where only they stand in the way.
        ``fallback``: where there is no headroom, acquire the model that is declared for that, and so on down the line.
        ``plan``: for this model, to be carried out as it was said; then nothing else makes headroom.

        Raises:
            ModelNotFoundError: not configured.
            ModelBusyError: it is to come to another device and is in use where it is.
            ModelLoadFailedError: with the cause.
            OutOfMemoryError, LimitExceededError: no headroom, and none to be made.
            UnsupportedError: another process holds it.
            PlanStaleError: the plan can't be carried out as it was said.
        """
        if plan is not None:
            return self._acquire(
                model_id, token, report, plan.device_id, make_room=False, wait_ns=0, plan=plan
            )
        try:
            return self._acquire(model_id, token, report, device_id, make_room=make_room, wait_ns=wait_ns)
        except (OutOfMemoryError, LimitExceededError) as error:
            refused, tried = error, list[str]()
        for instead in self._table.fallbacks(model_id) if fallback else ():
            tried.append(instead)
            try:
                acquired = self._acquire(
                    instead, token, report, device_id, make_room=make_room, wait_ns=wait_ns
                )
            except (OutOfMemoryError, LimitExceededError):
                continue
            why = f"{model_id!r} does not fit: {refused.message}; {instead!r} was loaded instead"
            gone = (*refused.details.get("models_unloaded", ()), *acquired.unloaded)
            return replace(acquired, unloaded=gone, fallback_reason=why)
        if tried:
            refused.details["fallbacks_tried"] = tried
        raise refused

    def _acquire(
        self, model_id: str, token: CancelToken, report: Report, device_id: str | None, *,
        make_room: bool, wait_ns: int, plan: Plan | None = None,
    ) -> Acquired:  # fmt: skip
        until_ns = self._clock.now_ns() + wait_ns if wait_ns else None
        _check_ours(self._table.get(model_id), device_id)
        moved: list[UnloadedModel] = []
        came_from = ""
        while True:
            residence = once_settled(self._table, lambda: self.models.begin(model_id), token)
            entry = self._table.get(model_id)
            if residence is None:
                try:
                    return self._load(
                        entry, device_id, token, report, make_room=make_room, until_ns=until_ns, plan=plan
                    )
                except BaseException as error:
                    self.bring_back(moved, came_from, error)
                    raise
            stays = False
            try:
                stale = self._staleness(entry, residence)
                stays = stale is None and (device_id is None or residence.device_id == device_id)
                if plan is not None and (stale or (stays and plan.victims)):
                    stays = False
                    raise plan.stale(f"{stale} since" if stale else "the model is loaded by now")
            finally:
                if not stays:  # before anything is waited for: two moves might wait for each other
                    self.models.let_go(model_id, residence.handle)
            if stays:
                self.models.use(model_id, residence.handle, plan)
                return Acquired(entry, residence, ())
            if plan is not None:
                self.models.plans.check(plan)
            elif device_id is not None and residence.device_id != device_id:
                self._check_move(entry, residence, device_id, token, make_room=make_room)
            why = stale or f"it is to be on {device_id}"
            gone = self.unload(model_id, token, reason=f"unloaded: {why}", forced=True)
            if not stale:
                moved, came_from = [gone], residence.device_id

    def _staleness(self, entry: ModelEntry, residence: Residence) -> str | None:
        """Return why a loaded model is not what its files are any more; None where it is to be used as it is.

        Files that took the place of the old ones wait for the end of all leases, and must be good.
        """
        if self.weights.is_stale(residence):
            return "its file was written to"
        if entry.in_use or not self.weights.was_replaced(residence):
            return None
        try:
            self.weights.open(entry).close()
        except ModelLoadFailedError as error:
            log("warning", "a model's new file can't be loaded; the old one stays", error=error.message)
            return None
        return "its file was replaced"

    def _check_move(
        self, entry: ModelEntry, residence: Residence, device_id: str, token: CancelToken, *, make_room: bool
    ) -> None:
        """Refuse to take a loaded model to a device where it could not be loaded: it would be gone here too."""
        if residence.handle in self.weights.live():
            raise _made_here(entry, device_id)
        check = partial(
            self.models.plans.check_fits,
            AllocationRequest(device_id, residence.size_bytes + entry.working_bytes),
            make_room=make_room,
        )
        once_settled(self._table, check, token, partial(self._refresh, device_id))

    def _refresh(self, device_id: str) -> None:
        """Read a device, and host memory, where its models may go."""
        with self._monitor.watching_for_loss():
            devices = tuple(dict.fromkeys((device_id, HOST)))
            self._monitor.refresh(devices, max_age_ms=0, forced=True)

    def _load(
        self, entry: ModelEntry, device_id: str | None, token: CancelToken, report: Report, *,
        make_room: bool, until_ns: int | None, for_use: bool = True, plan: Plan | None = None,
    ) -> Acquired:  # fmt: skip
        """Load a model that is this thread's to load.

        1. Its source is opened: what is wrong with that is found before anything goes for its sake.
        2. Headroom is held, and what is in its way is unloaded.
        3. It is loaded and committed; any failure takes all of that back.
        4. What went for it is brought back, too.
        """
        held, source = None, None
        unloaded: list[UnloadedModel] = []
        try:
            source = self.weights.open(entry)  # 1
            target = self._choose_device(entry, source, device_id, token)
            held, owners = self._hold(
                entry, source, target, token, make_room=make_room, until_ns=until_ns, plan=plan
            )  # 2
            unloaded += owners
            self._unloader.unload_all(held, unloaded)
            residence = self._fill(entry, source, held, token, report, for_use=for_use)  # 3
        except BaseException as error:
            if isinstance(error, ModelLoadFailedError):
                entry.state_reason = str(error.details["cause"])
            self.models.failed(entry, held, blamed=isinstance(error, ModelLoadFailedError))
            if held is not None:
                self.bring_back(unloaded, held.reservation.request.device_id, error)  # 4
            raise
        finally:
            if source is not None:
                source.close()
        self._unloader.observe((residence.device_id,))
        return Acquired(entry, residence, tuple(unloaded))

    @property
    def default_device(self) -> str:
        """The device of models that name none."""
        return self._manager.devices.default(self._asked_default)

    def _choose_device(self, entry: ModelEntry, source: Source, asked: str | None, token: CancelToken) -> str:
        """Choose where a model goes: as asked, as declared, else the default or the first other with headroom.

        A device that is being probed is waited for, where it would be the one.
        """
        if source.loader is not None and asked not in {None, HOST}:
            raise _made_here(entry, asked)
        fixed = HOST if source.loader is not None else asked or entry.spec.device_id
        if fixed is not None:
            self._monitor.wait_until_known((fixed,), token)
            return self._manager.devices.info(fixed).device_id
        self._monitor.wait_until_known((self.default_device,), token)
        default = self.default_device
        choice = (default, *(each for each in self._manager.devices.ids() if each != default))
        self._monitor.refresh(choice, max_age_ms=0)
        fitting = (each for each in choice if self._fits(each, source.size_bytes + entry.working_bytes))
        return next(fitting, default)

    def requirement(self, model_id: str, device_id: str | None, token: CancelToken) -> tuple[str, int]:
        """Return where a model would be loaded, and the bytes that it needs there: none where it is loaded.

        Reads its file's header. Errors as ``hold``, but those for want of headroom.
        """
        entry = self._table.get(model_id)
        _check_ours(entry, device_id)
        place = entry.residence
        if place is not None and entry.state is ModelState.LOADED and device_id in {None, place.device_id}:
            return place.device_id, 0
        source = self.weights.open(entry)
        try:
            target = self._choose_device(entry, source, device_id, token)
            return target, self._needed_bytes(entry, source, target)
        finally:
            source.close()

    def _needed_bytes(self, entry: ModelEntry, source: Source, device_id: str) -> int:
        if source.loader is not None and entry.measured_bytes is None:
            return self._margins.expected_bytes(entry.spec.loader, device_id, source.size_bytes)
        return source.size_bytes + entry.working_bytes

    def _fits(self, device_id: str, size_bytes: int) -> bool:
        there = self._manager.devices.info(device_id).state is DeviceState.AVAILABLE
        return there and not self._manager.pressure.missing_bytes(device_id, size_bytes)

    def _hold(
        self, entry: ModelEntry, source: Source, device_id: str, token: CancelToken, *,
        make_room: bool, until_ns: int | None, plan: Plan | None,
    ) -> tuple[EvictingReservation, tuple[UnloadedModel, ...]]:  # fmt: skip
        request = AllocationRequest(device_id, self._needed_bytes(entry, source, device_id), purpose="model")
        if (make_room or plan is not None) and device_id != HOST:
            with self._monitor.watching_for_loss():
                self._monitor.refresh((device_id,), max_age_ms=0)
                self._join_pieces(request, token, self.check_unused)
        return self._hold_for(request, entry, token, make_room=make_room, until_ns=until_ns, plan=plan)

    def _hold_for(
        self, request: AllocationRequest, entry: ModelEntry | None, token: CancelToken, *,
        make_room: bool, until_ns: int | None = None, name: str | None = None, plan: Plan | None = None,
    ) -> tuple[EvictingReservation, tuple[UnloadedModel, ...]]:  # fmt: skip
        """Hold headroom. Returns it, and what owners have unloaded for it."""
        asked: Answers = {}
        refresh = partial(self._refresh, request.device_id)
        while True:
            in_vain = {each: said for each, said in asked.items() if isinstance(said, str)}
            gone = tuple(said for said in asked.values() if isinstance(said, UnloadedModel))
            reserve = partial(
                self.models.reserve, request, entry,
                make_room=make_room, until_ns=until_ns, name=name, asked=in_vain, planned=plan,
            )  # fmt: skip
            try:
                held = once_settled(self._table, reserve, token, refresh)
            except WorkerError as error:
                _name_gone(error, gone)
                raise
            if isinstance(held, EvictingReservation):
                return held, gone
            reason = f"{request.size_bytes} bytes are needed on {request.device_id}"
            asked |= self.external.ask(held.model_ids, reason, token)

    def _fill(
        self, entry: ModelEntry, source: Source, held: EvictingReservation, token: CancelToken, report: Report, *,
        for_use: bool,
    ) -> Residence:  # fmt: skip
        """Load into the headroom held, and commit what it turned out to take."""
        device_id, handle = held.reservation.request.device_id, held.handle
        started_ns, grown = self._clock.now_ns(), self.weights.process_growth()
        block, size = self.weights.load(entry, source, device_id, handle, token, report)
        took_ms = (self._clock.now_ns() - started_ns) // NS_PER_MS
        if source.copy is not None:
            entry.restore_ms = took_ms
        else:
            entry.measured_process_bytes = grown()
        if source.loader is not None and entry.measured_bytes is None:
            self._margins.note(entry.spec.loader, device_id, source.size_bytes, block.actual_bytes)
        load_ms = None if source.copy is not None else took_ms
        try:
            residence = self.models.arrived(entry, held, size, block.actual_bytes, load_ms, for_use=for_use)
        except BaseException:
            self.weights.unload(Residence(device_id, handle, 0, 0))
            raise
        copy = self.models.drop_host_copy(entry)
        if copy is not None:
            self.weights.unload(copy)
        return residence

    def bring_back(self, unloaded: list[UnloadedModel], device_id: str, error: BaseException) -> None:
        """Load again what went for something that then failed, the last first, so that it is as before.

        Best effort: what does not come back is named in the error, which then says that something was done.
        """
        gone: list[UnloadedModel] = []
        for row in reversed(unloaded):
            entry = self._table.get(row.model_id)
            try:
                if entry.spec.external or self._closing:
                    gone.insert(0, row)
                elif self.models.begin_return(entry):
                    never = CancelToken(self._clock.now_ns)
                    self._load(
                        entry, device_id, never, no_report, make_room=False, until_ns=None, for_use=False
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
        entry = self._table.get(model_id)
        if by_owner:
            if entry.spec.external:
                return self.external.unloaded(model_id)
            raise InvalidRequestError.at("data.by_owner", f"model {model_id!r} is held by the worker itself")
        offload = mode is UnloadMode.OFFLOAD
        if entry.spec.external:
            return self.external.unload(entry, reason, token, offload=offload, forced=forced)
        if offload:
            self._monitor.refresh((HOST,), max_age_ms=0)
            reason = "offloaded to host memory: as asked"
        row = self.evict(model_id, reason, token, forced=forced, offload=offload)
        if row is not None:
            return row
        copy = None if offload else self.models.drop_host_copy(entry)
        if copy is not None:
            returned = self.weights.unload(copy)
            self._unloader.observe((copy.device_id,))
            return UnloadedModel(
                model_id, copy.size_bytes, returned, entry.load_ms, "unloaded from host memory: as asked"
            )
        return UnloadedModel(model_id, 0, 0, entry.load_ms, f"nothing to unload: it is {entry.state}")

    def expire(self, model_id: str) -> None:
        """Unload a model that has been idle past its keep-alive, or ask its owner; one used again stays."""
        with self._manager.lock:
            kept_ms, eviction = self.models.expired_after_ms(model_id), None
            entry = self._table.get(model_id)
            why = (
                "it is declared otherwise by now"
                if entry.outdated
                else f"idle past its keep-alive of {kept_ms} ms"
            )
            external = entry.spec.external
            if kept_ms is not None and not external:
                eviction = self.models.begin_eviction(
                    model_id, f"unloaded: {why}", forced=entry.outdated, cause=EvictionCause.IDLE
                )
        if kept_ms is not None and external:
            self.external.request(model_id, why)
        elif eviction is not None:
            self._unloader.unload_and_observe(eviction)

    def reload(self, specs: Iterable[ModelSpec], roles: Iterable[Role]) -> ReloadModelsResult:
        """Take another list of models over; what is in use is what it was until its last lease ends."""
        specs = tuple(specs)
        found = self._table.declare(specs, roles)
        never = CancelToken(self._clock.now_ns)
        for entry in tuple(self._table):
            if entry.outdated and not entry.spec.external:
                with suppress(WorkerError):  # in use: then it goes after its last lease
                    self.unload(
                        entry.model_id, never, reason="unloaded: it is declared otherwise by now", forced=True
                    )
                with self._manager.lock:
                    self._table.settle(entry)
        new = {*found.added, *found.changed}
        if new:
            self.estimates.begin([each for each in self._table if each.model_id in new], self.preload)
        refused = tuple(
            RefusedModel(each.model_id, each.refused) for each in specs if each.refused is not None
        )
        return ReloadModelsResult(**vars(found), refused=refused)

    def evict(
        self, model_id: str, reason: str, token: CancelToken, *, forced: bool = False, offload: bool = False
    ) -> UnloadedModel | None:
        """Unload a model by plan; None if it is not loaded any more. ModelBusyError if it came into use."""
        begin = partial(
            self.models.begin_eviction_patiently, model_id, reason, forced=forced, offload=offload
        )
        eviction = once_settled(self._table, begin, token)
        return None if eviction is None else self._unloader.unload_and_observe(eviction)

    def reserve_making_room(
        self, name: str, request: AllocationRequest, token: CancelToken, unloaded: list[UnloadedModel],
        plan: Plan | None = None,
    ) -> Reservation:  # fmt: skip
        """Hold headroom for an allocation, unloading what has to go, or what the plan says; it is added.

        Errors as ``hold``.
        """
        held, owners = self._hold_for(request, None, token, make_room=True, name=name, plan=plan)
        unloaded += owners
        try:
            self._unloader.unload_all(held, unloaded)
        except BaseException:
            self._manager.allocations.release(held.reservation)
            raise
        return held.reservation

    def check_unused(self, device_ids: tuple[str, ...], token: CancelToken) -> None:
        """Refuse what must not happen under a lease, and wait while a model comes, goes or is held there.

        ModelBusyError; the manager's lock is held by whoever calls, or it means nothing (a wait lets go of it).
        """
        once_settled(self._table, partial(self.models.check_unused, device_ids), token)

    # ---- on its own ----

    def preload(self) -> None:
        """Load what is to be there from the start, in the file's order; what can't be is logged."""
        for entry in tuple(self._table):
            if entry.spec.preload and not self._closing:
                token = CancelToken(self._clock.now_ns)
                try:
                    acquired = self.hold(entry.model_id, token, no_report, make_room=False)
                except WorkerError as error:
                    log("warning", "a model was not preloaded", model_id=entry.model_id, error=error.message)
                else:
                    self.models.let_go(acquired.entry.model_id, acquired.residence.handle)

    def estimate(self, *, beside: bool = False) -> None:
        """Read what models will take, where their files say so, and load what is to be there from the start."""
        if beside:
            self.estimates.begin(self._table, self.preload)
        else:
            self.estimates.look(self._table)
            self.preload()

    def close(self) -> None:
        """Unload everything that is not in use, and tell no one: the worker ends."""
        self._closing = True
        for entry in self._table:
            if entry.spec.external:
                self.models.unloaded_externally(entry.model_id)
                continue
            with suppress(WorkerError):
                why = "unloaded: the worker ends"
                eviction = self.models.begin_eviction(entry.model_id, why, forced=True)
                if eviction is not None:
                    self.weights.unload(eviction.residence)
                    self.models.evicted(eviction, None)
            copy = self.models.drop_host_copy(entry)
            if copy is not None:
                self.weights.unload(copy)


def _name_gone(error: WorkerError, gone: tuple[UnloadedModel, ...]) -> None:
    """Have an error say that models went, where some did: not all is as it was."""
    if gone:
        error.executed = Executed.YES
        error.details["models_unloaded"] = gone


def _check_ours(entry: ModelEntry, device_id: str | None) -> None:
    if entry.leaving:
        message = f"model {entry.model_id!r} is not declared any more: it goes after its last lease"
        raise ModelNotFoundError(message, model_id=entry.model_id, known_models=[])
    if entry.spec.external:
        message = f"model {entry.model_id!r} is held by another process: there is nothing of it here to use"
        raise UnsupportedError(message, model_id=entry.model_id, device_id=device_id)


def _made_here(entry: ModelEntry, device_id: str | None) -> UnsupportedError:
    message = f"model {entry.model_id!r} is made by the operator's code, in host memory"
    return UnsupportedError(message, model_id=entry.model_id, device_id=device_id)
