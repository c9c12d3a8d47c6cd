"""Holding headroom: joining pieces, asking owners and unloading what has to go, until what is asked for fits."""

from collections.abc import Callable
from functools import partial

from protocol.results import UnloadedModel
from protocol.vocabulary import Executed
from worker.core.cancellation import CancelToken
from worker.core.errors import WorkerError
from worker.core.records import HOST, AllocationRequest, Reservation
from worker.manager.model_table import EvictingReservation, ModelEntry
from worker.manager.models import ModelManager
from worker.manager.plan_table import Plan
from worker.watch.device_monitor import DeviceMonitor
from worker.wiring import Core
from worker.workers.model_owners import Answers, ExternalWorker
from worker.workers.model_unload import ModelUnloader
from worker.workers.model_waits import once_settled

CheckUnused = Callable[[tuple[str, ...], CancelToken], None]
JoinPieces = Callable[[AllocationRequest, CancelToken, CheckUnused], object]
"""Joins a device's free memory where what is needed is there, but in pieces that cannot be joined in place."""


class HeadroomHolder:
    """Holds headroom for models and allocations, each reservation with the evictions that it waits for."""

    def __init__(
        self,
        core: Core,
        models: ModelManager,
        external: ExternalWorker,
        unloader: ModelUnloader,
        monitor: DeviceMonitor,
        join_pieces: JoinPieces,
    ) -> None:
        self._allocations = core.manager.allocations
        self._table = core.manager.models
        self._models = models
        self._external = external
        self._unloader = unloader
        self._monitor = monitor
        self._join_pieces = join_pieces

    def hold_for_model(
        self, entry: ModelEntry, size_bytes: int, device_id: str, token: CancelToken, *,
        make_room: bool, until_ns: int | None, plan: Plan | None,
    ) -> tuple[EvictingReservation, tuple[UnloadedModel, ...]]:  # fmt: skip
        """Hold headroom for a model. Returns it, with evictions to carry out, and what owners have unloaded for it.

        ``until_ns``: until when others' leases may be waited for. Errors as ``ModelWorker.hold``.
        """
        request = AllocationRequest(device_id, size_bytes, purpose="model")
        if (make_room or plan is not None) and device_id != HOST:
            with self._monitor.watching_for_loss():
                self._monitor.refresh((device_id,), max_age_ms=0)
                self._join_pieces(request, token, self.check_unused)
        return self._hold(request, entry, token, make_room=make_room, until_ns=until_ns, plan=plan)

    def reserve_making_headroom(
        self, name: str, request: AllocationRequest, token: CancelToken, unloaded: list[UnloadedModel],
        plan: Plan | None = None,
    ) -> Reservation:  # fmt: skip
        """Hold headroom for an allocation, unloading what has to go, or what the plan says; it is added.

        Errors as ``ModelWorker.hold``.
        """
        held, owners = self._hold(request, None, token, make_room=True, name=name, plan=plan)
        unloaded += owners
        try:
            self._unloader.unload_all(held, unloaded)
        except BaseException:
            self._allocations.release(held.reservation)
            raise
        return held.reservation

    def check_unused(self, device_ids: tuple[str, ...], token: CancelToken) -> None:
        """Refuse what must not happen under a lease, and wait while a model comes, goes or is held there.

        ModelBusyError; the manager's lock is held by whoever calls, or it means nothing (a wait lets go of it).
        """
        once_settled(self._table, partial(self._models.check_unused, device_ids), token)

    def refresh(self, device_id: str) -> None:
        """Read a device, and host memory, where its models may go."""
        with self._monitor.watching_for_loss():
            devices = tuple(dict.fromkeys((device_id, HOST)))
            self._monitor.refresh(devices, max_age_ms=0, forced=True)

    def _hold(
        self, request: AllocationRequest, entry: ModelEntry | None, token: CancelToken, *,
        make_room: bool, until_ns: int | None = None, name: str | None = None, plan: Plan | None = None,
    ) -> tuple[EvictingReservation, tuple[UnloadedModel, ...]]:  # fmt: skip
        """Hold headroom. Returns it, and what owners have unloaded for it."""
        asked: Answers = {}
        refresh = partial(self.refresh, request.device_id)
        while True:
            in_vain = {each: said for each, said in asked.items() if isinstance(said, str)}
            gone = tuple(said for said in asked.values() if isinstance(said, UnloadedModel))
            reserve = partial(
                self._models.reserve, request, entry,
                make_room=make_room, until_ns=until_ns, name=name, asked=in_vain, planned=plan,
            )  # fmt: skip
            try:
                held = once_settled(self._table, reserve, token, refresh)
            except WorkerError as error:
                name_gone(error, gone)
                raise
            if isinstance(held, EvictingReservation):
                return held, gone
            reason = f"{request.size_bytes} bytes are needed on {request.device_id}"
            asked |= self._external.ask(held.model_ids, reason, token)


def name_gone(error: WorkerError, gone: tuple[UnloadedModel, ...]) -> None:
    """Have an error say that models went, where some did: not all is as it was."""
    if gone:
        error.executed = Executed.YES
        error.details["models_unloaded"] = gone
