"""What is done after a while, unless something else came first."""

from collections.abc import Callable

from worker.backends.isolation.call import Call
from worker.backends.isolation.child_process import ChildProcess
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureEvent


def end_unless_answered(child: ChildProcess, call: Call, seconds: float, over: Callable[[], object]) -> None:
    """End a process whose work does not stop although no caller waits for it any more; ``over`` is called once it has."""

    def wait_or_kill() -> None:
        try:
            if not child.answers.wait(call, seconds):
                child.kill(
                    f"did not stop {seconds:g} s after its work was cancelled, or its time was up, and was killed"
                )
        finally:
            over()

    try:
        start_thread(wait_or_kill, "engine-patience")
    except BaseException:
        over()
        raise


def later(seconds: float, do: Callable[[], object]) -> SureEvent:
    """Do something after so long, unless what is returned is set by then."""
    over = SureEvent()
    start_thread(lambda: None if over.wait(seconds) else do(), "engine-timer")
    return over
