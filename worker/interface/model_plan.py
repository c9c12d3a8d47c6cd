"""Which of several ways to do the work fits, what would go for it, and the plan that carries it out."""

from dataclasses import replace
from itertools import islice

from protocol.results import (
    MOST_KEPT_CONSUMERS,
    PlannedCandidate,
    PlannedEviction,
    PlannedRelease,
    PlanResult,
)
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS
from worker.core.consumers import EXTERNAL, Quote, Release
from worker.core.errors import DeviceUnavailableError, ModelLoadFailedError, UnsupportedError
from worker.core.records import WayToPlan
from worker.eviction.planner import Victim
from worker.manager.plan_table import PLAN_LIFETIME_NS
from worker.watch.device_monitor import READINGS_MAX_AGE_MS, DeviceMonitor
from worker.wiring import Core
from worker.workers.model_load import ModelWorker


class ModelPlanner:
    """Answers ``memory.plan``. Changes nothing but the plans that it remembers."""

    def __init__(self, core: Core, worker: ModelWorker, monitor: DeviceMonitor) -> None:
        self._manager = core.manager
        self._pressure = core.manager.pressure
        self._placement = worker.placement
        self._models = worker.models
        self._consumers = worker.consumers
        self._monitor = monitor

    def plan(self, ways: tuple[WayToPlan, ...], token: CancelToken, *, allow_eviction: bool) -> PlanResult:
        """Choose the first way that fits, and keep the plan for it, unless nothing is to be done for it.

        ModelNotFoundError for a model that is not configured. A way whose model can't be loaded does not fit.
        """
        resolved = [self._resolved(way, token) for way in ways]
        self._monitor.refresh(
            tuple({way.device_id for way, _ in resolved if way.device_id}), max_age_ms=READINGS_MAX_AGE_MS
        )
        # Without the lock, for they may be slow to say. The owners of external models have offered nothing.
        offered = self._consumers.quotes() if allow_eviction else ()
        quotes = tuple(each for each in offered if each.kind != EXTERNAL)
        rows, said = list[PlannedCandidate](), list[str]()
        selected, plan = None, None
        for way, broken in resolved:
            with self._manager.lock:  # the plan is kept with what it was made from
                row, taken, text = self._candidate(way, broken, quotes, allow_eviction=allow_eviction)
                rows.append(row)
                if selected is not None:
                    continue
                said.append(text)
                if row.fits:
                    selected = way.name
                    if way.model_id is not None or way.required_bytes:
                        plan = self._models.plans.propose(
                            row.device_id, way.required_bytes or 0, way.model_id, *taken
                        )
        expires_in_ms = None if plan is None else PLAN_LIFETIME_NS // NS_PER_MS
        plan_id = None if plan is None else plan.plan_id
        return PlanResult(selected, "; ".join(said), tuple(rows), plan_id, expires_in_ms)

    def _resolved(self, way: WayToPlan, token: CancelToken) -> tuple[WayToPlan, str | None]:
        """Find out what a model needs and where; or why it can't be loaded."""
        if way.model_id is None:
            return way, None
        try:
            device_id, needed = self._placement.requirement(way.model_id, way.device_id, token)
        except (ModelLoadFailedError, UnsupportedError, DeviceUnavailableError) as error:
            return way, error.message
        return replace(way, device_id=device_id, required_bytes=needed), None

    def _candidate(
        self, way: WayToPlan, broken: str | None, quotes: tuple[Quote, ...], *, allow_eviction: bool
    ) -> tuple[PlannedCandidate, tuple[tuple[Victim, ...], tuple[Release, ...]], str]:
        """Return a way's row, what goes for it, and its part of the reason."""
        device_id = way.device_id or self._placement.default_device
        if way.required_bytes is None:
            row = PlannedCandidate(way.name, False, device_id, None, (), None)  # noqa: FBT003 - a record's field
            return row, ((), ()), f"{way.name!r} can't be had: {broken}"
        missing = self._pressure.missing_bytes(device_id, way.required_bytes) if way.required_bytes else 0
        available = self._pressure.headroom(device_id).available_bytes
        plan = None
        if missing and allow_eviction:
            own = self._pressure.missing_below_cap(device_id, way.required_bytes)
            plan = self._models.plans.plan_releases(device_id, missing, quotes, own_bytes=own)
        helps = plan is not None and plan.meetable
        victims, releases = (plan.eviction.victims, plan.releases) if plan and helps else ((), ())
        fits = missing == 0 or helps
        known = available is not None or not way.required_bytes
        row = PlannedCandidate(
            name=way.name,
            fits=fits and known,
            device_id=device_id,
            shortfall_bytes=None if not known
            else 0 if fits
            else missing - (plan.ceiling_bytes if plan else 0),
            evictions=tuple(
                PlannedEviction(each.model_id, each.freed_bytes, each.reload_ms, each.reason) for each in victims
            ),
            reload_ms=plan.eviction.reload_ms if plan and helps else 0,
            required_bytes=way.required_bytes,
            releases=tuple(
                PlannedRelease(each.consumer_id, each.kind, each.expected_bytes, each.cost_ms, each.reason)
                for each in releases
            ),
            consumers_kept=tuple(islice(plan.why_kept(), MOST_KEPT_CONSUMERS)) if plan else (),
        )  # fmt: skip
        there = "an unknown number of" if available is None else available
        needs = f"{way.name!r} needs {way.required_bytes} bytes, {there} available on {device_id}"
        if not row.fits:
            return row, (victims, releases), f"{needs}: {_too_small(row, allow_eviction=allow_eviction)}"
        names, freed = ", ".join(each.model_id for each in victims), sum(each.freed_bytes for each in victims)
        asked = [each for each in releases if not each.counted]
        expected = sum(each.expected_bytes for each in asked)
        how = [f"unloading {names} frees {freed} more"] if names else []
        how += [f"{', '.join(each.consumer_id for each in asked)} may give back {expected}"] if asked else []
        return row, (victims, releases), f"{needs}: chosen, {' and '.join(how) or 'it fits'}"


def _too_small(row: PlannedCandidate, *, allow_eviction: bool) -> str:
    if row.shortfall_bytes is None:
        return "its headroom can't be told"
    after = " even if all models that may go went" if allow_eviction else ""
    return f"{row.shortfall_bytes} short{after}"
