"""Where what acts unasked is put together."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from worker.app.memory import Parts
from worker.background.expiry import Reaper
from worker.background.pressure_monitor import PressureMonitor
from worker.core.cancellation import CancelToken
from worker.stream.job_runner import JobRunner
from worker.stream.work import Claim, Work, optimizing

if TYPE_CHECKING:
    from worker.policy.auto import Trigger


def build_reaper(parts: Parts, runner: JobRunner) -> Reaper:
    """Build what ends leases and keep-alives, beside whatever long work has the threads of requests."""
    return Reaper(parts.core, parts.memory, partial(runner.submit, brief=True))


def build_pressure_monitor(parts: Parts, runner: JobRunner, trigger: "Trigger | None") -> PressureMonitor:
    """Build what samples devices. It samples nothing unasked before its pace is set."""
    act: Callable[[str], None] | None = None
    if trigger is not None:
        from worker.background.auto_optimize import AutoOptimizer  # noqa: PLC0415 - only for --auto-optimize

        def submit(device_id: str, act: Callable[[CancelToken], None]) -> bool:
            work = Work(
                action="memory.optimize",
                run=lambda call: act(call.token),
                claims=optimizing(device_id),
                quick=False,
            )
            return runner.submit_if_free(work, (Claim(device_id, exclusive=True), *work.claims))

        act = AutoOptimizer(parts.core, parts.memory, submit, trigger).consider
    return PressureMonitor(parts.core, parts.memory, parts.trends, parts.leaks, parts.pace, act)
