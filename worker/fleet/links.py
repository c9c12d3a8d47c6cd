"""A node as a gateway reaches it: requests out, replies back, and what became of those whose node is lost."""

import itertools
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import ray

from protocol.vocabulary import Executed, TransferType
from worker.client.calls import data_of
from worker.core.cancellation import CancelToken, wait_for_change
from worker.core.errors import DeviceUnavailableError, WorkerError
from worker.core.log import log
from worker.core.records import no_report
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureCondition
from worker.fleet.freeing import Freeing
from worker.fleet.names import outward
from worker.fleet.node_worker import UNDONE
from worker.fleet.silence import Silence
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
_LOOK_SECONDS = 0.1
"""Who waits for an answer looks so often whether its own request has ended, or the node hangs."""
_LAST_WORD_SECONDS = 0.2
"""How long an answer is waited for once it was seen that a request was cancelled, or that its time is up."""
QUESTION_SECONDS = 3.0
"""Who has waited for so long has the node asked whether it is there; a question to many goes without its answer."""
_MADE = {"memory.allocate": "allocation_id", "memory.transfer": "destination_allocation_id"}
"""Fields of answers with an allocation that is freed where the answer comes after it was given up."""
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
    """One node. Its requests reach its worker in the order in which they are sent. Thread-safe.

    While the node is being started they are kept here: one that is given up meanwhile is never carried out.
    """

    def __init__(
        self,
        node_id: str,
        handle: Any,
        gateway: str,
        freeing: Freeing,
        silence: Silence,
        on_answer: Callable[["Link", str, Answered], None],
        on_lost: Callable[["Link", str], None],
        *,
        started: bool = True,
    ) -> None:
        self.node_id = node_id
        self.handle = handle
        self._gateway = gateway
        self.freeing = freeing
        self.silence = silence
        self.heard = on_answer
        self._on_lost = on_lost
        self._link_id = f"{gateway}-{next(_LINKS)}"
        self._numbers = itertools.count(1)
        self._changed = SureCondition()
        # All mutable state, under its lock: why the node will not start, and what is kept until it has, each with when it was asked
        # for, by ``time.monotonic``.
        self.started = started
        """Whether the node has told of itself: what is sent before is kept until it has."""
        self._why_ended: str | None = None
        self._kept: dict[Pending, float] = {}

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
        pending = Pending(self, action, data, meta, guard, progress=progress)
        if self.started or not self._keep(pending):
            self._send(pending)
        return pending

    def ask(self, action: str, data: dict[str, Any], call: Call, meta: dict[str, Any] | None = None) -> Any:
        """Send a request and wait for what it answers, in the fleet's names. Raises what it refuses with."""
        return self.send(action, data, meta_of(call) if meta is None else meta).answer(call)

    def cancel(self, pending: "Pending") -> None:
        """Have a request cancelled; one that is kept is never sent."""
        with self._changed:
            self._kept.pop(pending, None)
        if pending.call_id is not None:
            unwaited(self.handle.cancel.remote(pending.call_id), "cancelling on a node")

    def result(self, ref: Any, token: CancelToken) -> Any:
        """Return what Ray answers a call with. Raises what it ended with, and what ``await_answer`` does."""
        self.await_answer(ref, token)
        return ray.get(ref)

    def await_answer(self, waited_for: Any, token: CancelToken) -> None:
        """Wait until Ray has the answer of a call, or the next part of it.

        NodeHangsError where the node answers nothing; what the token raises, where no answer follows soon.
        """
        asked_at, ended_at = time.monotonic(), None
        while not ray.wait([waited_for], timeout=_LOOK_SECONDS)[0]:
            now = time.monotonic()
            if now - asked_at >= QUESTION_SECONDS:
                asked_at = now
                self.silence.ask(self)
            self.silence.check(self)
            try:
                token.check()
            except WorkerError as error:
                ended_at = now if ended_at is None else ended_at
                if now - ended_at >= _LAST_WORD_SECONDS:
                    message = f"{self.node_id} has not answered: what it does is taken back where it can be"
                    raise type(error)(message, node=self.node_id) from None

    def ping(self) -> Any:
        """Ask whether it is there. Returns what Ray answers once its worker answered, or is known to be gone."""
        return self.handle.ping.remote()

    # ---- the node's start ----

    def start(self) -> None:
        """Note that the node has started: what is kept is sent, with the time that is left to it."""
        with self._changed:
            for pending, since in self._kept.items():
                waited_ms = round((time.monotonic() - since) * 1000)
                deadline_ms = pending.meta.get("deadline_ms")
                if deadline_ms is not None:
                    pending.meta = {**pending.meta, "deadline_ms": max(1, deadline_ms - waited_ms)}
                self._send(pending)
            self._kept.clear()
            self.started = True
            self._changed.notify_all()

    def end(self, why: str) -> None:
        """Note that nothing reaches the node by this any more: what is kept is refused."""
        with self._changed:
            self._why_ended = why
            self._kept.clear()
            self._changed.notify_all()

    def await_start(self, pending: "Pending", token: CancelToken) -> None:
        """Wait until a request is sent. NodeLostError where it never is; what the token raises: then it never is either."""
        if self.started:
            return
        with self._changed:
            try:
                while pending in self._kept:
                    wait_for_change(self._changed, token)
            except WorkerError as error:
                self._kept.pop(pending, None)
                raise named(error, self.node_id) from None
        if pending.call_id is None:
            raise self._lost(self._why_ended or PROCESS_LOST, Executed.NO)

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
        return self._lost(why, UNDONE.get(action, Executed.UNKNOWN))

    # ---- inside ----

    def _keep(self, pending: "Pending") -> bool:
        """Keep a request until the node has started, unless it has by now."""
        with self._changed:
            if self._why_ended is None and not self.started:
                self._kept[pending] = time.monotonic()
            return not self.started

    def _send(self, pending: "Pending") -> None:
        number = next(self._numbers)
        pending.call_id = f"{self._link_id}-{number}"
        place = Place(self._gateway, self._link_id, number)
        asked = packed(
            Asked(place, pending.call_id, pending.guard, pending.action, pending.data, pending.meta)
        )
        if pending.progress:
            pending.stream = self.handle.call_with_progress.options(num_returns="streaming").remote(asked)
        else:
            pending.ref = self.handle.call.remote(asked)
        self.freeing.sent(pending.action, pending)

    def _lost(self, why: str, executed: Executed) -> NodeLostError:
        told = NodeLostError(f"{self.node_id} is lost: {why}", node=self.node_id)
        told.executed = executed
        return told


class Pending:
    """A request on its way to a node."""

    def __init__(
        self,
        link: Link,
        action: str,
        data: dict[str, Any],
        meta: dict[str, Any],
        guard: Guard | None,
        *,
        progress: bool,
    ) -> None:
        self.link = link
        self.action, self.data, self.meta, self.guard = action, data, meta, guard
        self.progress = progress
        self.ours = False
        """Whether it moves what is the gateway's alone, and nobody's if it is given up."""
        self.call_id: str | None = None
        """None until it is sent."""
        self.ref: Any = None
        """What Ray answers it with, once it is sent; ``stream`` with what is told meanwhile."""
        self.stream: Any = None

    def answer(self, call: Call) -> Any:
        """Wait for the worker's answer, in the fleet's names. Raises what it refuses with; NodeLostError."""
        return self.read(self.wait(call))

    def wait(self, call: Call) -> Answered:
        """Wait for the reply as it is; cancelled where the call is. It is answered all the same, as cancelled or done."""
        self.link.await_start(self, call.token)
        try:
            with call.token.telling(self.cancel):
                found: Answered = unpacked(self._follow(call))
            self.link.heard(self.link, self.action, found)
        except LOST as error:
            raise self.link.lost(error, self.action) from None
        except WorkerError as error:
            undone = self.action == "memory.load_model" or self._made_in is not None
            error.executed = Executed.NO if undone else Executed.UNKNOWN
            self._leave_behind()
            raise
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
        self.link.cancel(self)

    def _follow(self, call: Call) -> bytes:
        """Wait for the answer, and report meanwhile what is told of it."""
        if self.stream is None:
            whole: bytes = self.link.result(self.ref, call.token)
            return whole
        while True:
            self.link.await_answer(self.stream, call.token)
            step: tuple[int, int] | bytes = ray.get(next(self.stream))
            if isinstance(step, bytes):
                return step
            call.report(*step)

    def _leave_behind(self) -> None:
        """Have it cancelled, and what it does all the same taken back once it is answered: nobody waits for it any more."""
        self.cancel()
        ended = self.ref if self.stream is None else self.stream.completed()
        # By a thread: Ray's own must not wait for the locks of those who call Ray.
        ended.future().add_done_callback(lambda _: start_thread(self._take_back, "fleet-late"))

    def _take_back(self) -> None:
        nobody = Call(CancelToken(time.monotonic_ns), no_report)
        with suppress(*LOST, WorkerError):
            found = unpacked(self._follow(nobody))
            self.link.heard(self.link, self.action, found)
            made = found.message["data"].get(self._made_in) if found.succeeded else None
            if made is not None:
                self.link.ask("memory.deallocate", {"allocation_id": made, "force": True}, nobody)

    @property
    def _made_in(self) -> str | None:
        """The field of its answer with what is taken back; None for nothing, as where the host's contents were moved."""
        moves = self.data.get("transfer_type") == TransferType.MOVE
        return None if moves and not self.ours else _MADE.get(self.action)


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


def meta_of(call: Call, given: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Return what a node has to know of how a request is to be handled: what the host said, and the time that is left."""
    left = call.token.left_ns
    return {**given, **({} if left is None else {"deadline_ms": max(1, left // 1_000_000)})}
