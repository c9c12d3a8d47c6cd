"""A node as a gateway reaches it: requests out, replies back, and what became of those whose node is lost."""

import itertools
from collections.abc import Callable
from typing import Any

import ray

from protocol.vocabulary import Executed
from worker.client.calls import data_of
from worker.core.errors import DeviceUnavailableError, WorkerError
from worker.core.log import log
from worker.fleet.freeing import Freeing
from worker.fleet.names import outward
from worker.fleet.node_worker import UNDONE
from worker.fleet.words import Answered, Asked, Guard, Place, packed, unpacked
from worker.stream.failures import wire_error
from worker.stream.work import Call

LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.ActorUnschedulableError,
    ray.exceptions.RaySystemError,
    ray.exceptions.ObjectLostError,
    SystemExit,  # what Ray raises where a thread waits for it while it is shut down
)
PROCESS_LOST = "its process died, or can't be reached"
_LINKS = itertools.count(1)


class NodeLostError(DeviceUnavailableError):
    """A node ended, or can't be reached, before it answered."""


class Said(dict[str, Any]):
    """What a node's worker answered, and which start of it."""

    def __init__(self, answer: dict[str, Any], incarnation: str) -> None:
        super().__init__(answer)
        self.incarnation = incarnation


class Link:
    """One node. Its requests reach its worker in the order in which they are sent. Thread-safe."""

    def __init__(
        self,
        node_id: str,
        handle: Any,
        gateway: str,
        freeing: Freeing,
        on_answer: Callable[["Link", str, Answered], None],
        on_lost: Callable[["Link", str], None],
    ) -> None:
        self.node_id = node_id
        self.handle = handle
        self._gateway = gateway
        self.freeing = freeing
        self.heard = on_answer
        self._on_lost = on_lost
        self._link_id = f"{gateway}-{next(_LINKS)}"
        self._numbers = itertools.count(1)

    def send(
        self,
        action: str,
        data: dict[str, Any],
        meta: dict[str, Any],
        *,
        progress: bool = False,
        guard: Guard | None = None,
    ) -> "Pending":
        """Send a request; with a guard it may be refused by what the node is now."""
        number = next(self._numbers)
        call_id = f"{self._link_id}-{number}"
        place = Place(self._gateway, self._link_id, number)
        asked = packed(Asked(place, call_id, guard, action, data, meta))
        if progress:
            stream = self.handle.call_with_progress.options(num_returns="streaming").remote(asked)
            pending = Pending(self, call_id, action, None, stream)
        else:
            pending = Pending(self, call_id, action, self.handle.call.remote(asked))
        self.freeing.sent(action, pending)
        return pending

    def ask(self, action: str, data: dict[str, Any], call: Call, meta: dict[str, Any] | None = None) -> Any:
        """Send a request and wait for what it answers, in the fleet's names. Raises what it refuses with."""
        return self.send(action, data, meta_of(call) if meta is None else meta).answer(call)

    def cancel(self, call_id: str) -> None:
        """Have a request cancelled."""
        unwaited(self.handle.cancel.remote(call_id), "cancelling on a node")

    def drain(self) -> None:
        """Have nothing more placed there."""
        unwaited(self.handle.drain.remote(draining=True), "draining a node")

    def leave(self) -> Any:
        """Have all freed that the gateway has there. Returns what Ray answers once it is."""
        return unwaited(self.handle.leave.remote(self._gateway), "leaving a node")

    def lost(self, error: BaseException, action: str) -> NodeLostError:
        """Note that the node is lost, and make the error of a request that was on its way."""
        why = why_of(error)
        self._on_lost(self, why)
        told = NodeLostError(f"{self.node_id} is lost: {why}", node=self.node_id)
        told.executed = UNDONE.get(action, Executed.UNKNOWN)
        return told


class Pending:
    """A request on its way to a node."""

    def __init__(self, link: Link, call_id: str, action: str, ref: Any, stream: Any = None) -> None:
        self.link = link
        self._call_id = call_id
        self._action = action
        self.ref = ref
        self._stream = stream

    def answer(self, call: Call) -> Any:
        """Wait for the worker's answer, in the fleet's names. Raises what it refuses with; NodeLostError."""
        return self.read(self.wait(call))

    def wait(self, call: Call) -> Answered:
        """Wait for the reply as it is; cancelled where the call is. It is answered all the same, as cancelled or done."""
        try:
            with call.token.telling(self.cancel):
                found: Answered = unpacked(ray.get(self.ref) if self._stream is None else self._follow(call))
            self.link.heard(self.link, self._action, found)
        except LOST as error:
            raise self.link.lost(error, self._action) from None
        finally:
            self.link.freeing.answered(self)
        return found

    def read(self, answered: Answered) -> Any:
        """Return what a reply carries, in the fleet's names. Raises the error that it reports."""
        return Said(outward(self.link.node_id, self.read_plainly(answered)), answered.incarnation)

    def read_plainly(self, answered: Answered) -> Any:
        """Return what a reply carries as it is: a plugin's own. Raises the error that it reports."""
        try:
            return data_of(answered.message or {})
        except WorkerError as error:
            raise named(error, self.link.node_id) from None

    def answer_plainly(self, call: Call) -> Any:
        """Wait for a plugin's answer."""
        return self.read_plainly(self.wait(call))

    def cancel(self) -> None:
        """Have it cancelled."""
        self.link.cancel(self._call_id)

    def _follow(self, call: Call) -> bytes:
        for ref in self._stream:
            step: tuple[int, int] | bytes = ray.get(ref)
            if isinstance(step, bytes):
                return step
            call.report(*step)
        raise AssertionError


def unwaited(ref: Any, doing: str) -> Any:
    """Have a bug in what nobody asks for the answer of logged: Ray is told to say nothing of such (``surroundings``)."""

    def ended(answer: Any) -> None:
        error = answer.exception()
        if error is not None and not isinstance(error, LOST):
            wire_error(error, doing, None)

    ref.future().add_done_callback(ended)
    return ref


def why_of(error: BaseException) -> str:
    """Say for people how a node was lost; what Ray says of it goes to the log."""
    said = str(error).strip().partition("\n")[0]
    log("info", "Ray does not reach a node", reason=said)
    return (
        "its machine is gone" if isinstance(error, ray.exceptions.ActorUnschedulableError) else PROCESS_LOST
    )


def named(error: WorkerError, node_id: str) -> WorkerError:
    """Return a node's error in the fleet's names."""
    error.message = f"{node_id}: {error.message}"
    error.args = (error.message,)
    error.details = {**outward(node_id, error.details), "node": node_id}
    return error


def meta_of(call: Call) -> dict[str, Any]:
    """Return what a node has to know of how a request is to be handled: the time that is left."""
    left = call.token.left_ns
    return {} if left is None else {"deadline_ms": max(1, left // 1_000_000)}
