"""Holding headroom: joining pieces, asking owners and unloading what has to go, until what is asked for fits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from worker.core.cancellation import CancelToken
from worker.core.consumers import Quote, Release
from worker.core.errors import WorkerError
from worker.core.records import HOST, AllocationRequest, Reservation
from worker.manager.model_entry import ModelEntry
from worker.manager.model_table import EvictingReservation, ReleasesToMake
from worker.manager.models import ModelManager
from worker.manager.plan_table import Plan
from worker.watch.device_monitor import DeviceMonitor
from worker.wiring import Core
from worker.workers.consumers import ConsumerWorker
from worker.workers.gone import Gone, name_gone, name_released
from worker.workers.model_unload import ModelUnloader
from worker.workers.model_waits import once_settled

CheckUnused = Callable[[tuple[str, ...], CancelToken], None]
JoinPieces = Callable[[AllocationRequest, CancelToken, CheckUnused], object]
"""Joins a device's free memory where what is needed is there, but in pieces that cannot be joined in place."""


ROUNDS = 8
"""How often others are asked for one request: each time the device shows less than they said, those that gave
something are asked again."""


class HeadroomHolder:
    """Holds headroom for models and allocations, each reservation with the evictions that it waits for."""

    def __init__(
        self,
        core: Core,
        models: ModelManager,
        consumers: ConsumerWorker,
        unloader: ModelUnloader,
        monitor: DeviceMonitor,
        join_pieces: JoinPieces,
    ) -> None:
        self._allocations = core.manager.allocations
        self._missing_bytes = core.manager.pressure.missing_bytes
        self._table = core.manager.models
        self._models = models
        self._consumers = consumers
        self._unloader = unloader
        self._monitor = monitor
        self._join_pieces = join_pieces

    def hold_for_model(
        self, entry: ModelEntry, size_bytes: int, device_id: str, token: CancelToken, gone: Gone, *,
        make_room: bool, until_ns: int | None, plan: Plan | None,
    ) -> EvictingReservation:  # fmt: skip
        """Hold headroom for a model. Returns it, with evictions to carry out; adds what others gave back for it.

        ``until_ns``: until when others' leases may be waited for. Errors as ``ModelWorker.hold``.
        """
        request = AllocationRequest(device_id, size_bytes, purpose="model")
        if (make_room or plan is not None) and device_id != HOST:
            with self._monitor.watching_for_loss():
                self._monitor.refresh((device_id,), max_age_ms=0)
                self._join_pieces(request, token, self.check_unused)
        return self._hold(request, entry, token, gone, make_room=make_room, until_ns=until_ns, plan=plan)

    def reserve_making_headroom(
        self, name: str, request: AllocationRequest, token: CancelToken, gone: Gone, plan: Plan | None = None
    ) -> Reservation:
        """Hold headroom for an allocation, by what has to go, or what the plan says; that is added to what is gone.

        Errors as ``ModelWorker.hold``.
        """
        held = self._hold(request, None, token, gone, make_room=True, name=name, plan=plan)
        try:
            self._unloader.unload_all(held, gone.unloaded)
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
        """Read a device, and host memory, where its models may go; but for what was read just now."""
        with self._monitor.watching_for_loss():
            self._monitor.refresh_unless_recent(tuple(dict.fromkeys((device_id, HOST))))

    def _hold(
        self, request: AllocationRequest, entry: ModelEntry | None, token: CancelToken, gone: Gone, *,
        make_room: bool, until_ns: int | None = None, name: str | None = None, plan: Plan | None = None,
    ) -> EvictingReservation:  # fmt: skip
        """Hold headroom, once others have given back what a plan takes of them, if it takes anything of them."""
        device_id, refused, rounds = request.device_id, dict[str, str](), 0
        quotes: tuple[Quote, ...] | None = None
        made: ReleasesToMake | None = None

        def is_missing() -> bool:
            return make_room and plan is None and self._missing_bytes(device_id, request.size_bytes) > 0

        def refresh() -> None:
            nonlocal quotes
            self.refresh(device_id)
            planning = made is None and is_missing()
            # Without the lock: consumers may be slow to say.
            quotes = self._consumers.quotes(device_id, request.size_bytes) if planning else None

        def reserve() -> EvictingReservation | ReleasesToMake | None:
            if made is not None:
                return self._models.go_on(made, request, entry, name)
            if quotes is None and is_missing():
                return None  # it was there, and was taken meanwhile: they are to say what they offer
            return self._models.reserve(
                request, entry, make_room=make_room, until_ns=until_ns, name=name, asked=refused, planned=plan,
                quotes=quotes or (),
            )  # fmt: skip

        with _naming(gone):
            if plan is not None and plan.releases:
                self._models.plans.check(plan, released=False)
                self._release(plan.releases, request, token, gone, refused)
            while True:
                held = once_settled(self._table, reserve, token, refresh)
                if isinstance(held, EvictingReservation):
                    return held
                made = held
                if made is not None:
                    rounds += 1
                    self._release(made.releases, request, token, gone, refused, rounds)

    def _release(
        self,
        releases: tuple[Release, ...],
        request: AllocationRequest,
        token: CancelToken,
        gone: Gone,
        refused: dict[str, str],
        rounds: int = 1,
    ) -> None:
        """Have others give back what a plan takes of them, if there were not too many rounds of that; what is kept for reuse, once."""
        if rounds > ROUNDS:
            refused |= dict.fromkeys((each.consumer_id for each in releases), "it was asked often enough")
            return
        why = f"{request.size_bytes} bytes are needed on {request.device_id}"
        refused |= self._consumers.release(releases, request.device_id, why, token, gone)
        refused |= {each.consumer_id: "it was given up" for each in releases if each.counted}


@contextmanager
def _naming(gone: Gone) -> Iterator[None]:
    """Have errors name what is gone."""
    try:
        yield
    except WorkerError as error:
        name_gone(error, gone.unloaded)
        name_released(error, gone.released)
        raise
