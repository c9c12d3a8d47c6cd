"""Requests of the host to work on nodes, as the instructor does for one worker: checked, routed, and answered in the fleet's names."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import ValidationError

from protocol.actions import ACTIONS, OLDER_NAMES, Action
from worker.core.cancellation import CancelToken
from worker.core.errors import (
    AllocationNotFoundError,
    InvalidRequestError,
    UnsupportedError,
    WorkerError,
)
from worker.core.records import no_report
from worker.core.shortages import start_thread
from worker.fleet.asked import Begin, Data, How, Run
from worker.fleet.draining import Draining
from worker.fleet.everywhere import Everywhere
from worker.fleet.holdings import Holdings, is_by_count
from worker.fleet.links import Link, Pending, Said, meta_of
from worker.fleet.names import split
from worker.fleet.placing import Placing
from worker.fleet.roster import Roster
from worker.fleet.routing import NAMING, ROUTES, Where, check_complete
from worker.fleet.transfers import Transfers
from worker.instructor.binding import Bindings
from worker.instructor.refusals import check_size, invalid, unknown_action
from worker.stream.work import Answer, Call, Manner, Work

_MADE = {
    "memory.allocate": (("allocation_id", "alloc"),),
    "memory.transfer": (("destination_allocation_id", "alloc"), ("transfer_id", "transfer")),
    "memory.plan": (("plan_id", "plan"),),
    "memory.plan_batches": (("plan_id", "batches"),),
    "operation.begin": (("operation_id", "operation"),),
}
"""Fields of answers with ids that may be named by their number."""


class Gateway:
    """Every action of the contract, and the plugins' on the nodes. TypeError for an action that is not routed."""

    def __init__(
        self,
        roster: Roster,
        own: str,
        holdings: Holdings,
        placing: Placing,
        everywhere: Everywhere,
        transfers: Transfers,
        draining: Draining,
        here: Bindings,
    ) -> None:
        check_complete()
        self._roster, self._own, self._holdings = roster, own, holdings
        self._placing, self._everywhere = placing, everywhere
        self._here, self._transfers = here, transfers
        # All mutable state: of each consumer that the host registered, its node.
        self._consumers: dict[str, str] = {}
        self._ways: dict[Where, Begin] = {
            Where.ONE: self._one,
            Where.PLACED: self._placed,
            Where.EVERY: self._every,
            Where.MODEL: self._model,
            Where.CONSUMER: self._consumer,
            Where.OWN: self._on_own,
            Where.GATEWAY: draining.begin,
        }

    def prepare(self, action: str, data: Data) -> Work:
        """Turn a request into work. UnknownActionError or InvalidRequestError if it is none."""
        name = OLDER_NAMES.get(action, action)
        row = ACTIONS.get(name)
        if row is None:
            return self._prepare_plugin(action, data)
        check_size(data)
        try:
            params = row.params.model_validate(data)
        except ValidationError as error:
            raise invalid(error, row.params) from None
        binding = self._here.get(name)
        if binding is not None:
            claims, quick = ((), True) if binding.claims is None else binding.claims(params)
            handler = binding.handler
            return Work(
                action=name, run=lambda call: handler(params, call), claims=claims, quick=quick,
                changes=row.changes, control=row.control,
            )  # fmt: skip
        begin = self._ways[ROUTES[name].where]
        return self._work(name, data, begin, row)

    # ---- inside ----

    def _work(self, name: str, data: Data, begin: Begin, row: Action | None) -> Work:
        """Make work that is sent on its way as it is admitted, and waited for by a thread; by that where nobody starts it."""
        kind = partial(Work, action=name, quick=False, plugin=True)
        if row is not None:
            kind = partial(Work, action=name, quick=False, changes=row.changes, control=row.control)
        sent: list[Run] = []

        def start(manner: Manner) -> Run:
            meta = {"deadline_ms": manner.deadline_ms, "traceparent": manner.traceparent}
            how = How({key: each for key, each in meta.items() if each is not None}, progress=manner.progress)
            run = self._begun(begin, name, data, how)
            sent.append(run)
            return run

        def run_alone(call: Call) -> Any:
            return self._begun(begin, name, data, How({}))(call)

        return kind(run=run_alone, start=start, abandoned=partial(_undo, name, self._roster.link, sent))

    def _begun(self, begin: Begin, name: str, data: Data, how: How) -> Run:
        """Send a request with ids in place of numbers, so that order is kept; where one is long in the making, once it is made.

        AllocationNotFoundError for a number that names nothing.
        """
        counted = {field: given for field in NAMING if is_by_count(given := data.get(field))}
        if not counted or self._holdings.is_made(counted.values()):
            return begin(name, self._named(data, counted), how)

        def run(call: Call) -> Any:
            self._holdings.await_made(counted.values(), call.token)
            return begin(name, self._named(data, counted), replace(how, meta=meta_of(call, how.meta)))(call)

        return run

    def _named(self, data: Data, counted: dict[str, str]) -> Data:
        named = dict(data)
        for field, given in counted.items():
            meant = self._holdings.meant(given)
            if meant is None:
                raise self._not_found(given)
            named[field] = meant
        return named

    def _not_found(self, given: str) -> WorkerError:
        return AllocationNotFoundError(
            f"{given}: this gateway has handed out no id of that number",
            allocation_id=given,
            reason="never_existed",
        )

    def link_and_data(self, data: Data, field: str) -> tuple[Link, Data]:
        """Return the node that a field names, and the request in that node's names.

        InvalidRequestError where its fields name several nodes; DeviceNotFoundError; DeviceUnavailableError.
        """
        node, _ = split(data.get(field) or "")
        node = node or self._own
        inner = dict(data)
        for each in NAMING:
            given = data.get(each)
            if isinstance(given, str):
                where, rest = split(given)
                if (where or self._own) != node:
                    raise InvalidRequestError.at(
                        f"data.{each}", f"{given} is not on {node}, as {data.get(field)} is"
                    )
                inner[each] = rest
        self._check_lost(data)
        return self._roster.link(node), inner

    def _check_lost(self, data: Data) -> None:
        for field in ("allocation_id", "source_allocation_id"):
            given = data.get(field)
            why = self._holdings.why_lost(given) if isinstance(given, str) else None
            if why is not None:
                raise AllocationNotFoundError(
                    f"{given} went with its device: {why}", allocation_id=given, reason="device_lost"
                )

    # ---- ways ----

    def _one(self, name: str, data: Data, how: How) -> Run:
        field = ROUTES[name].field
        if data.get("plan_id") is not None:
            field = "plan_id"
        if name == "memory.get_transfer" and self._transfers.is_here(data["transfer_id"]):
            return lambda _: self._transfers.get(data["transfer_id"])
        if name == "memory.transfer" and self._between_nodes(data):
            self._check_lost(data)
            return self._noting(name, data, self._transfers.begin(data, how))
        link, inner = self.link_and_data(data, field)
        if name == "memory.register_consumer":
            self._consumers[data["consumer_id"]] = link.node_id
        return self._follow(name, link.send(name, inner, how.meta, progress=how.progress), inner)

    def _between_nodes(self, data: Data) -> bool:
        ends = (data["source_allocation_id"], data["destination_device_id"])
        source, destination = (split(each)[0] or self._own for each in ends)
        return source != destination

    def _on_own(self, name: str, data: Data, how: How) -> Run:
        given = data.get("allocation_id")
        if isinstance(given, str) and (split(given)[0] or self._own) != self._own:
            raise UnsupportedError(
                f"stores are on {self._own}, and {given} is not: transfer it to {self._own}/cpu first",
                node=self._own,
            )
        link, inner = self.link_and_data(data, "allocation_id" if given is not None else "operation_id")
        pending = link.send(name, inner, how.meta, progress=how.progress)
        if name.startswith("store."):
            return lambda call: _of_store(link, pending, call)
        return self._follow(name, pending, inner)

    def _placed(self, name: str, data: Data, how: How) -> Run:
        begin = self._placing.plan if name == "memory.plan" else self._placing.begin
        return self._noting(name, data, begin(name, data, how))

    def _every(self, name: str, data: Data, how: How) -> Run:
        return self._noting(name, data, self._everywhere.begin(name, data, how))

    def _model(self, name: str, data: Data, how: How) -> Run:
        return self._noting(name, data, self._placing.unload(name, data, how))

    def _consumer(self, name: str, data: Data, how: How) -> Run:
        node = self._consumers.get(data["consumer_id"], self._own)
        pending = self._roster.link(node).send(name, data, how.meta)
        return self._noting(name, data, pending.answer)

    def _prepare_plugin(self, action: str, data: Data) -> Work:
        """Run a plugin's action on the node where the model that it names is placed; else on the gateway's own."""
        if action not in self._roster.plugins:
            raise unknown_action(action, self._roster.plugins)
        return self._work(action, data, self._placing.plugin, None)

    # ---- what is noted of answers ----

    def _follow(self, name: str, pending: Pending, data: Data) -> Run:
        return self._noting(name, data, pending.answer)

    def _noting(self, name: str, data: Data, run: Run) -> Run:
        """Have what was made or freed noted, under the number that it has by the order of requests."""
        numbers = [(field, kind, self._holdings.number(kind)) for field, kind in _MADE.get(name, ())]

        def noted(call: Call) -> Any:
            found: Data = {}
            try:
                answer = run(call)
                found = answer.result if isinstance(answer, Answer) else answer
                self._note(name, data, found)
            finally:
                for field, kind, number in numbers:
                    self._holdings.name(kind, number, found.get(field))
            return answer

        return noted

    def _note(self, name: str, data: Data, answer: Data) -> None:
        if name == "memory.allocate":
            self._holdings.add(answer["allocation_id"], answer["device_id"], _incarnation(answer))
        elif name == "memory.load_model":
            self._holdings.loaded(answer["model_id"], answer["device_id"], _incarnation(answer))
        elif name == "memory.unload_model":
            self._holdings.unloaded(answer["model_id"])
        elif name in {"memory.transfer", "memory.get_transfer"} and answer["state"] == "completed":
            self._holdings.add(
                answer["destination_allocation_id"], answer["destination_device_id"], _incarnation(answer)
            )
        elif name == "memory.deallocate":
            self._holdings.remove((answer["allocation_id"],))
        elif name == "memory.clear":
            self._holdings.remove(answer["allocation_ids"] or ())
        elif name == "memory.unregister_consumer":
            self._consumers.pop(data["consumer_id"], None)


def _incarnation(answer: Data) -> str:
    return answer.incarnation if isinstance(answer, Said) else ""


def _of_store(link: Link, pending: Pending, call: Call) -> Any:
    """Return a store's answer as it is: only the allocation beside a value is named, for values are the host's."""
    answer = dict(pending.answer_plainly(call))
    if answer.get("allocation_id") is not None:
        answer["allocation_id"] = f"{link.node_id}/{answer['allocation_id']}"
    return answer


def _undo(name: str, link_of: Callable[[str], Link], sent: list[Run], _error: object) -> None:
    """Take back a request that was sent, and that no thread waits for any more."""

    def undo() -> None:
        token = CancelToken(time.monotonic_ns)
        token.cancel()
        for run in sent:
            with suppress(WorkerError):
                answer = run(Call(token, no_report))
                if name == "memory.allocate":
                    node, allocation_id = split(answer["allocation_id"])
                    freeing = {"allocation_id": allocation_id, "force": True}
                    link_of(node or "").ask(
                        "memory.deallocate", freeing, Call(CancelToken(time.monotonic_ns), no_report)
                    )

    start_thread(undo, "fleet-undo")
