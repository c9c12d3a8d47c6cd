"""Loading models: choose a device, hold headroom, unload what goes for it, load, commit; or roll back."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial

from protocol.record import Record
from protocol.results import RefusedModel, ReleasedMemory, ReloadModelsResult, UnloadedModel
from protocol.vocabulary import FileLocation
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS
from worker.core.errors import (
    LimitExceededError,
    ModelLoadFailedError,
    OutOfMemoryError,
    WorkerError,
)
from worker.core.log import log
from worker.core.models import ModelSpec, Role
from worker.core.records import AllocationRequest, Report, no_report
from worker.loaders.base import reason_of
from worker.manager.model_entry import ModelEntry, Residence
from worker.manager.model_table import EvictingReservation
from worker.manager.models import ModelManager
from worker.manager.plan_table import Plan
from worker.watch.device_monitor import DeviceMonitor
from worker.wiring import Core
from worker.workers.consumers import ConsumerWorker
from worker.workers.gone import Gone, name_gone, name_released
from worker.workers.headroom import HeadroomHolder, JoinPieces
from worker.workers.model_estimates import ModelEstimates
from worker.workers.model_owners import ExternalWorker
from worker.workers.model_placement import ModelPlacement, check_ours, made_here, run_there
from worker.workers.model_unload import ModelUnloader
from worker.workers.model_waits import once_settled
from worker.workers.weights import ModelWeights, Source


class Acquired(Record):
    """A model that was loaded or used, by a lease or a hold on it, and what went for it."""

    entry: ModelEntry
    residence: Residence
    unloaded: tuple[UnloadedModel, ...]
    fallback_reason: str | None = None
    """Why it is not the model that was asked for."""
    released: tuple[ReleasedMemory, ...] = ()
    """What other consumers than models gave back for it."""


class ModelWorker:
    """Loads models, one load or unload at a time for each, each all or nothing; made with what it takes for that."""

    def __init__(
        self,
        core: Core,
        models: ModelManager,
        weights: ModelWeights,
        external: ExternalWorker,
        consumers: ConsumerWorker,
        monitor: DeviceMonitor,
        default_device: str | None,
        join_pieces: JoinPieces,
    ) -> None:
        self.models = models
        self.weights = weights
        self.external = external
        self.consumers = consumers
        self._manager = core.manager
        self._table = core.manager.models
        self.placement = ModelPlacement(core, weights, monitor, default_device)
        self.unloader = ModelUnloader(core, models, weights, external, monitor)
        self.headroom = HeadroomHolder(core, models, consumers, self.unloader, monitor, join_pieces)
        self.estimates = ModelEstimates(core.manager, launches=weights.launches)
        self._clock = core.clock
        # Mutable: whether the worker ends, and brings nothing back any more; and what is to be called then.
        self._closing = False
        self.at_end: list[Callable[[], None]] = []

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
            released = (*refused.details.get("released", ()), *acquired.released)
            return replace(acquired, unloaded=gone, released=released, fallback_reason=why)
        if tried:
            refused.details["fallbacks_tried"] = tried
        raise refused

    def _acquire(
        self, model_id: str, token: CancelToken, report: Report, device_id: str | None, *,
        make_room: bool, wait_ns: int, plan: Plan | None = None,
    ) -> Acquired:  # fmt: skip
        until_ns = self._clock.now_ns() + wait_ns if wait_ns else None
        check_ours(self._table.get(model_id), device_id)
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
                self.models.plans.check(plan, released=False)
            elif device_id is not None and residence.device_id != device_id:
                self._check_move(entry, residence, device_id, token, make_room=make_room)
            why = stale or f"it is to be on {device_id}"
            gone = self.unloader.unload(model_id, token, reason=f"unloaded: {why}", forced=True)
            if not stale:
                moved, came_from = [gone], residence.device_id

    def _staleness(self, entry: ModelEntry, residence: Residence) -> str | None:
        """Return why a loaded model is not what its files are any more; None where it is to be used as it is.

        Files that took the place of the old ones wait for the end of all leases, and must be good.
        """
        if self.weights.is_stale(residence):
            return "its file was written to"
        if entry.in_use:
            return None
        replaced = self.weights.was_replaced(residence)
        if not replaced:  # a bad file that took its place may have gone again
            gone = "its file can't be found any more: it is used as it is, but can't be loaded again"
            entry.state_reason = gone if replaced is None else None
            return None
        try:
            self.weights.open(entry).close()
        except ModelLoadFailedError as error:
            entry.state_reason = f"its new file can't be loaded: {reason_of(error)}"
            log("warning", "a model's new file can't be loaded; the old one stays", error=error.message)
            return None
        return "its file was replaced"

    def _check_move(
        self, entry: ModelEntry, residence: Residence, device_id: str, token: CancelToken, *, make_room: bool
    ) -> None:
        """Refuse to take a loaded model to a device where it could not be loaded: it would be gone here too."""
        if residence.handle in self.weights.live():
            raise made_here(entry, device_id)
        if residence.engine:
            raise run_there(entry, device_id, residence.device_id)
        check = partial(
            self.models.plans.check_fits,
            AllocationRequest(device_id, residence.size_bytes + entry.working_bytes),
            make_room=make_room,
            quotes=self.consumers.quotes(device_id) if make_room else (),
        )
        once_settled(self._table, check, token, partial(self.headroom.refresh, device_id))

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
        held = source = None
        try:
            gone = Gone()  # what may find no memory is done where a failure takes the load back
            source = self.weights.open(entry)  # 1
            target = self.placement.choose_device(entry, source, device_id, token)
            self.weights.check_placement(entry, source, target)
            size = self.placement.needed_bytes(entry, source, target)
            held = self.headroom.hold_for_model(
                entry, size, target, token, gone, make_room=make_room, until_ns=until_ns, plan=plan
            )  # 2
            self.unloader.unload_all(held, gone.unloaded)
            residence = self._fill(entry, source, held, token, report, for_use=for_use)  # 3
        except BaseException as error:
            if isinstance(error, ModelLoadFailedError):
                entry.state_reason = reason_of(error)
            self.models.failed(entry, held, blamed=isinstance(error, ModelLoadFailedError))
            if held is not None:
                self.bring_back(gone.unloaded, held.reservation.request.device_id, error)  # 4
                name_released(error, gone.released)
            raise
        finally:
            if source is not None:
                source.close()
        self.unloader.observe((residence.device_id,))
        return Acquired(entry, residence, tuple(gone.unloaded), released=tuple(gone.released))

    def _fill(
        self, entry: ModelEntry, source: Source, held: EvictingReservation, token: CancelToken, report: Report, *,
        for_use: bool,
    ) -> Residence:  # fmt: skip
        """Load into the headroom held, and commit what it turned out to take."""
        device_id, handle = held.reservation.request.device_id, held.handle
        started_ns, grown = self._clock.now_ns(), self.weights.process_growth(device_id)
        block, size, footprint = self.weights.load(entry, source, device_id, handle, token, report)
        took_ms = (self._clock.now_ns() - started_ns) // NS_PER_MS
        if source.copy is not None:
            entry.restore_ms = took_ms
        else:
            entry.measured_process_bytes = grown() if footprint is None else footprint.process_bytes
        self.placement.note_taken(entry, source, device_id, block.actual_bytes)
        load_ms = None if source.copy is not None else took_ms
        try:
            residence = self.models.arrived(
                entry, held, size, block.actual_bytes, load_ms, for_use=for_use, footprint=footprint
            )
        except BaseException:
            self.weights.unload(Residence(device_id, handle, 0, 0, footprint is not None))
            raise
        copy = self.models.evictions.drop_host_copy(entry)
        if copy is not None:
            self.weights.unload(copy)
        told = {"model_id": entry.model_id, "device_id": device_id, "size_bytes": size, "load_ms": took_ms}
        log("debug", "loaded", **told)
        return residence

    def bring_back(self, unloaded: list[UnloadedModel], device_id: str, error: BaseException) -> None:
        """Load again what went for something that then failed, the last first, so that it is as before.

        Best effort: what does not come back is named in the error, which then says that something was done.
        """
        gone: list[UnloadedModel] = []
        for row in reversed(unloaded):
            try:
                entry = self._table.get(row.model_id)
                if entry.spec.external or self._closing:
                    gone.insert(0, row)
                elif self.models.begin_return(entry):
                    never = CancelToken(self._clock.now_ns)
                    self._load(
                        entry, device_id, never, no_report, make_room=False, until_ns=None, for_use=False
                    )
            except Exception as failure:  # noqa: BLE001 - whatever it is: the others are to come back, and this one is named
                log(
                    "warning",
                    "a model did not come back",
                    model_id=row.model_id,
                    error=getattr(failure, "message", repr(failure)),
                )
                gone.insert(0, row)
        if isinstance(error, WorkerError):
            name_gone(error, tuple(gone))

    # ---- all of them ----

    def reload(self, specs: Iterable[ModelSpec], roles: Iterable[Role]) -> ReloadModelsResult:
        """Take another list of models over; what is in use is what it was until its last lease ends."""
        specs, roles = tuple(specs), tuple(roles)
        self._table.forgive(self.weights.engines.forgive())
        found = self._table.declare(specs, roles)
        self.weights.launches.forget(found.removed)
        never = CancelToken(self._clock.now_ns)
        for entry in tuple(self._table):
            if entry.outdated and not entry.spec.external:
                with suppress(WorkerError):  # in use: then it goes after its last lease
                    self.unloader.unload(
                        entry.model_id, never, reason="unloaded: it is declared otherwise by now", forced=True
                    )
                with self._manager.lock:
                    self._table.settle(entry)
        new = {*found.added, *found.changed}
        looked_at = [
            each for each in self._table if each.model_id in new or each.file_location is FileLocation.ABSENT
        ]
        if looked_at:
            self.estimates.begin(looked_at, self.preload if new else _nothing)
        refused = [(each.model_id, each.refused) for each in specs]
        refused += [(each.name, each.refused) for each in roles]
        rows = tuple(RefusedModel(name, why) for name, why in refused if why is not None)
        return ReloadModelsResult(**vars(found), refused=rows)

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

    def estimate(self, *, beside: bool = False, preload: bool = True) -> None:
        """Read what models will take, where their files say so, and load what is to be there from the start."""
        then = self.preload if preload else _nothing
        if beside:
            self.estimates.begin(self._table, then)
        else:
            self.estimates.read(self._table)
            then()

    def close(self) -> None:
        """Unload everything that is not in use, and tell no one: the worker ends."""
        self._closing = True
        with ExitStack() as stack:  # whatever goes wrong on the way
            stack.callback(self.unloader.unload_everything)
            stack.callback(self.weights.engines.close)
            for each in reversed(self.at_end):
                stack.callback(each)


def _nothing() -> None:
    """Load nothing."""
