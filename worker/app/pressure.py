"""Where what watches the pressure is put together."""

from collections.abc import Callable

from protocol.vocabulary import PressureLevel
from worker.background.pressure_monitor import PressureWatch
from worker.core.cancellation import CancelToken
from worker.core.clock import Clock
from worker.core.events import Publish
from worker.interface.interface_memory import MemoryInterface
from worker.stream.alarm import Alarm
from worker.stream.job_runner import JobRunner
from worker.stream.work import Claim, Work


def build_pressure(
    memory: MemoryInterface,
    runner: JobRunner,
    alarm: Alarm,
    clock: Clock,
    publish: Publish,
    auto_level: PressureLevel | None,
    python_frames: int | None,
) -> PressureWatch:
    """Build it. It looks at nothing unasked before it is started."""
    if python_frames is not None:
        from worker.telemetry.python_memory import PythonMemory  # noqa: PLC0415 - only for --trace-python

        memory.leaks.python_lines = PythonMemory(python_frames).lines
    if auto_level is None:
        return PressureWatch(memory, clock, publish, alarm.at)
    from worker.background.auto_optimize import AutoOptimizer  # noqa: PLC0415 - only for --auto-optimize

    def submit(device_id: str, act: Callable[[CancelToken], None]) -> bool:
        work = Work(
            action="memory.optimize",
            run=lambda call: act(call.token),
            claims=(Claim(device_id, alone=True),),
            quick=False,
        )
        return runner.submit_if_free(work)

    auto = AutoOptimizer(memory, clock, publish, submit, auto_level)
    return PressureWatch(memory, clock, publish, alarm.at, auto.consider)
