"""A request on its way: what it does, what it needs for itself meanwhile, and what it is handed."""

from collections.abc import Callable
from typing import Any, Protocol

from protocol.record import Record
from worker.core.cancellation import CancelToken
from worker.core.records import no_report


class Claim(Record):
    """Something that work needs: for itself alone, or along with others that only share it."""

    key: str
    exclusive: bool


def model_claim(model_id: str) -> Claim:
    """Return what work on a model claims: one at a time, in arrival order."""
    return Claim(f"model {model_id}", exclusive=True)


def optimizing(device_id: str) -> tuple[Claim, Claim]:
    """Return what making headroom on a device claims: one at a time, beside what allocates and frees there."""
    return Claim(f"optimizing {device_id}", exclusive=True), Claim(device_id, exclusive=False)


def frees(device_id: str, *, after: bool) -> Claim:
    """Return what freeing memory of a device claims, side by side; ``after`` all that came before, what speaks of it claims."""
    return Claim(f"frees {device_id}", exclusive=after)


class Call:
    """What running work is handed."""

    __slots__ = ("_token", "report")

    def __init__(self, token: CancelToken, report: Callable[[int, int], None]) -> None:
        self._token = token
        self.report = report
        """Called with (completed bytes, total bytes)."""

    @property
    def token(self) -> CancelToken:
        """Says when to stop."""
        return self._token

    def check(self) -> None:
        """Raise CancelledError or DeadlineExceededError where the work is not to begin."""
        self.token.check()


class TimedCall(Call):
    """What work with a deadline is handed that runs at once: a token is made only for who looks at it.

    Nothing cancels it: by the time that somebody could ask for that it is done.
    """

    __slots__ = ("_deadline_ns", "_now_ns")
    report = staticmethod(no_report)  # no slot: the same for all

    def __init__(self, now_ns: Callable[[], int], deadline_ns: int) -> None:
        self._now_ns = now_ns
        self._deadline_ns = deadline_ns

    @property
    def token(self) -> CancelToken:
        """Says when to stop."""
        return CancelToken(self._now_ns, self._deadline_ns)

    def check(self) -> None:
        """Raise DeadlineExceededError where the time is up."""
        if self._now_ns() >= self._deadline_ns:
            self.token.check()


PluginAction = Callable[[dict[str, Any], Call], Any]
"""A plugin's action. Takes the request's ``data`` as it came, and the call: its token says when to stop.
Returns JSON values."""


class Manner(Protocol):
    """How a request asks to be handled."""

    deadline_ms: int | None
    progress: bool
    traceparent: str | None


class Work(Record):
    """A valid request, ready to run."""

    action: str
    run: Callable[[Call], Any]
    """Returns a result record, or an ``Answer``; raises WorkerError."""
    claims: tuple[Claim, ...] = ()
    quick: bool = True
    """Done so fast that the reading thread runs it itself."""
    changes: bool = False
    control: bool = False
    """Admitted also while the worker is overloaded or draining."""
    plugin: bool = False
    """The operator's code: it runs on the plugins' own threads, and its answers may be anything."""
    brief: bool = False
    """It frees memory: it runs beside whatever has the threads of other requests, which may wait for memory."""
    start: "Callable[[Manner], Callable[[Call], Any]] | None" = None
    """Called by the reading thread once it is admitted, in arrival order; what it returns is run."""
    abandoned: Callable[[Any], None] | None = None
    """Called with the error if it is given up before it runs, or, where no caller waits, fails by one that it does not know."""


class Answer(Record):
    """A result, and what happens once it is written."""

    result: Any
    then: Callable[[], None] | None = None
    background: Work | None = None
    """Goes on after the answer, under the same request id."""
