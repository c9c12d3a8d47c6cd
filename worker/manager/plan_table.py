"""Plans that were answered and may be taken up: exactly as they were said, or not at all. Pure; the manager locks."""

from collections import OrderedDict
from itertools import count

from protocol.record import Record
from worker.core.clock import NS_PER_S, Clock
from worker.core.consumers import Release
from worker.core.errors import NOT_KNOWN, PlanStaleError
from worker.core.ids import Ids
from worker.eviction.planner import Victim

PLAN_LIFETIME_NS = 60 * NS_PER_S
"""Far longer than a host takes to decide; what changes meanwhile makes a plan stale, not its age."""

_PLANS_KEPT = 64
"""The oldest is forgotten for a newer one."""


class PlannedVictim(Record):
    """A model that is to go, as it was when that was said."""

    victim: Victim
    handle: str
    use_count: int


class Plan(Record):
    """What was said: so much headroom on a device, for a model or an allocation, when these have gone."""

    plan_id: str
    device_id: str
    required_bytes: int
    model_id: str | None
    victims: tuple[PlannedVictim, ...]
    expires_ns: int
    releases: tuple[Release, ...] = ()
    """What others are to give back before the victims go."""

    def stale(self, why: str) -> PlanStaleError:
        """Return the error that says why it can't be taken up any more."""
        return _stale(self.plan_id, why)


class PlanTable:
    """The plans that can still be taken up, once each."""

    def __init__(self, clock: Clock, ids: Ids) -> None:
        self._clock = clock
        self._ids = ids
        # All mutable state: the plans, oldest first, and the next one's number.
        self._plans: OrderedDict[str, Plan] = OrderedDict()
        self._numbers = count(1)

    def add(
        self, device_id: str, required_bytes: int, model_id: str | None, victims: tuple[PlannedVictim, ...],
        releases: tuple[Release, ...] = (),
    ) -> Plan:  # fmt: skip
        """Keep a plan."""
        expires_ns = self._clock.now_ns() + PLAN_LIFETIME_NS
        plan = Plan(
            self._ids.make("plan", next(self._numbers)),
            device_id,
            required_bytes,
            model_id,
            victims,
            expires_ns,
            releases,
        )
        self._plans[plan.plan_id] = plan
        if len(self._plans) > _PLANS_KEPT:
            self._plans.popitem(last=False)
        return plan

    def get(self, plan_id: str) -> Plan:
        """Return a plan. PlanStaleError for one that was taken up, has expired, or never was."""
        plan = self._plans.get(plan_id)
        if plan is None or plan.expires_ns <= self._clock.now_ns():
            raise _stale(plan_id, "it was taken up, has expired, or never was", reason=NOT_KNOWN)
        return plan

    def remove(self, plan: Plan) -> None:
        """Note that a plan was taken up."""
        self._plans.pop(plan.plan_id, None)


def _stale(plan_id: str, why: str, **details: str) -> PlanStaleError:
    told = f"{plan_id!r} can't be taken up: {why}; ask memory.plan again"
    return PlanStaleError(told, plan_id=plan_id, **details)
