"""What goes to the node that placement chooses, and to the next best where that one refuses after all."""

import itertools
from dataclasses import replace
from typing import Any

from protocol.vocabulary import Executed, MemoryType
from worker.core.errors import (
    DeviceUnavailableError,
    LimitExceededError,
    ModelLoadFailedError,
    ModelNotFoundError,
    OutOfMemoryError,
    OverloadedError,
    UnsupportedError,
    WorkerError,
)
from worker.fleet.asked import Data, How, Run
from worker.fleet.links import Pending, meta_of
from worker.fleet.names import ALL, joined, split
from worker.fleet.roster import Roster
from worker.fleet.views import Cause, Choice, Passed, PlacementRequest, Step
from worker.fleet.words import Answered
from worker.stream.work import Call

_ELSEWHERE = (
    DeviceUnavailableError,
    LimitExceededError,
    ModelLoadFailedError,
    OutOfMemoryError,
    OverloadedError,
)
"""Refusals of one node that say nothing of others."""
_STALE_MAX = 8
"""How often a node may say that it is another by now before it is passed over."""
_NEVER = {Cause.UNKNOWN_MODEL, Cause.TOO_LARGE}
"""Why nothing that is freed or started on a node's machine makes a difference: all there have the same files and devices."""
_FINAL = {*_NEVER, Cause.EXCLUDED, Cause.REFUSED, Cause.NO_DEVICE, Cause.NO_ROOM}
"""Why a node that may be placed on was passed over."""
_NO_PLAN: Data = {"selected": None}
_UNITED = ("freed_bytes", "returned_bytes", "claimed_bytes", "kept_bytes", "process_returned_bytes")


class Placing:
    """Places by what the roster knows. The node's own word on its reservation is the truth."""

    def __init__(self, roster: Roster, own: str) -> None:
        self._roster = roster
        self._own = own
        self._keys = map(str, itertools.count(1))

    def begin(self, name: str, data: Data, how: How) -> Run:
        """Send an allocation or a load to where it is named, else to where it is placed."""
        if data.get("device_id") is not None or data.get("plan_id") is not None:
            return self._where_it_says(name, data, how)
        if data.get("memory_type") in {"shared", "external"}:  # on the gateway's machine, where its host is
            return self._roster.link(self._own).send(name, data, how.meta, progress=how.progress).answer
        request = PlacementRequest(
            required_bytes=data.get("size_bytes"),
            make_room=bool(data.get("make_room", name == "memory.load_model")),
            new_use=False,
            salt=next(self._keys),
        )
        if name == "memory.load_model":
            request = replace(request, model_id=self._meant(data["model_id"]) or data["model_id"])
        return _Attempt(self._roster, self._own, request, name, data, how).run

    def elsewhere(self, node: str, model_id: str, how: How) -> Run:
        """Load a model on any other node where it fits with nothing going, or is."""
        request = PlacementRequest(
            model_id=model_id,
            excluded=frozenset({node}),
            make_room=False,
            new_use=False,
            salt=next(self._keys),
        )
        data = {"model_id": model_id, "make_room": False, "allow_fallback": False}
        return _Attempt(self._roster, None, request, "memory.load_model", data, how).run

    def plugin(self, name: str, data: Data, how: How) -> Run:
        """Run a plugin's action where the model that it names is placed; on the gateway's own node where it names none."""
        model_id = self._meant(data.get("model_id"))
        if model_id is None:
            own = self._roster.link(self._own)
            return own.send(name, data, how.meta, progress=how.progress).answer_plainly
        request = PlacementRequest(model_id=model_id, new_use=True, salt=next(self._keys))
        return _Attempt(self._roster, self._own, request, name, data, how).run

    def unload(self, name: str, data: Data, how: How) -> Run:
        """Unload a model on every node where it is; one answer, added up. Where a node does not answer, the others' does."""
        model_id = self._meant(data["model_id"]) or data["model_id"]
        there = self._roster.having(model_id) or (self._roster.link(self._own),)
        pending = [each.send(name, data, how.meta) for each in there]

        def run(call: Call) -> Data:
            answers: list[Data] = []
            failed: DeviceUnavailableError | None = None
            for each in pending:
                try:
                    answers.append(each.answer(call))
                except DeviceUnavailableError as error:
                    failed = error
            if failed is not None and not answers:
                raise failed
            united = _united(answers)
            return united if failed is None else {**united, "reason": f"{united['reason']}; {failed.message}"}

        return run

    def plan(self, _name: str, data: Data, how: How) -> Run:
        """Ask each way of the node that is named or placed for it; the first that fits is that node's own choice too.

        Where none fits, and some could be placed nowhere, all are asked for anew once another node is started.
        """
        first = self._ask_ways(data, how.meta)

        def run(call: Call) -> Data:
            pending, nowhere = first
            while True:
                refusal, answer = None, _NO_PLAN
                try:
                    answer = _plan_of(data, [(positions, each.answer(call)) for positions, each in pending])
                except ModelNotFoundError as error:
                    refusal = error
                if answer["selected"] is None and nowhere:
                    elsewhere = all(_is_never_here(passed, self._own) for passed in nowhere)
                    if self._roster.await_start(call.token, elsewhere=elsewhere):
                        pending, nowhere = self._ask_ways(data, meta_of(call, how.meta))
                        continue
                if refusal is not None:
                    raise refusal
                return answer

        return run

    # ---- inside ----

    def _ask_ways(
        self, data: Data, meta: Data
    ) -> tuple[list[tuple[list[int], Pending]], list[tuple[Passed, ...]]]:
        """Send each way to its node, along with its position. Returns also why those that could be placed nowhere were not."""
        asked: dict[str, list[tuple[int, Data]]] = {}
        nowhere: list[tuple[Passed, ...]] = []
        for position, each in enumerate(data["candidates"]):
            node, candidate = self._planned(each, nowhere)
            asked.setdefault(node, []).append((position, candidate))
        return [
            (
                [position for position, _ in rows],
                self._roster.link(node).send(
                    "memory.plan", {**data, "candidates": [each for _, each in rows]}, meta
                ),
            )
            for node, rows in asked.items()
        ], nowhere

    def _meant(self, name: Any) -> str | None:
        """Return the id of the model that is meant; None where no node knows it."""
        return self._roster.meant(name, self._own) if isinstance(name, str) else None

    def _where_it_says(self, name: str, data: Data, how: How) -> Run:
        """Send it to the node that is named; counted there from now on, so that what is placed next knows of it."""
        inner, nodes = dict(data), []
        for field in ("device_id", "plan_id"):
            if data.get(field) is not None:
                node, inner[field] = split(data[field])
                nodes.append(node or self._own)
        link, key = self._roster.link(nodes[-1]), next(self._keys)
        if data.get("device_id") is not None and data.get("memory_type") != MemoryType.EXTERNAL:
            self._roster.reserve_named(
                key,
                joined(link.node_id, inner["device_id"]),
                self._meant(data.get("model_id")),
                data.get("size_bytes", 0),
            )
        pending = link.send(name, inner, how.meta, progress=how.progress)
        return lambda call: pending.read(_settled(self._roster, key, pending, call))

    def _planned(self, candidate: Data, nowhere: list[tuple[Passed, ...]]) -> tuple[str, Data]:
        asked = candidate.get("device_id")
        if asked is not None and asked != ALL:
            node, device = split(asked)
            return node or self._own, {**candidate, "device_id": device}
        request = PlacementRequest(
            model_id=self._meant(candidate.get("model_id")),
            required_bytes=candidate.get("required_bytes"),
            new_use=False,
        )
        placement = self._roster.place(request)
        if placement.chosen is not None:
            return placement.chosen.node_id, candidate
        nowhere.append(placement.why_passed())
        return self._own, candidate


class _Attempt:
    """One placement: tried where it is best, then where it is next best. The first try is sent as it is made."""

    def __init__(
        self, roster: Roster, own: str | None, request: PlacementRequest, name: str, data: Data, how: How
    ) -> None:
        self._roster, self._own, self._name, self._how = roster, own, name, how
        self._request, self._data = request, data
        self._fallback = name == "memory.load_model" and data.get("allow_fallback", True)
        # All mutable state: who refused, with what, how often a view was stale, whether the node is to choose the device, the
        # try that is under way, and, where there is none, what may give memory back that was asked for before.
        self._refused: dict[str, WorkerError] = {}
        self._stale = 0
        self._unnamed = False
        self._passed: tuple[Passed, ...] = ()
        before = roster.freeing.numbers()  # first: the decision may not know of what is answered from here on
        self._trying = self._next()
        self._freed = frozenset[int]() if self._trying or self._fits_never() else before

    def run(self, call: Call) -> Any:
        """Wait for the answer, trying one node after the other. Raises the best node's refusal where all refuse.

        Where it went nowhere, it is placed anew once what was to be given back before it is, and once another node is started.
        """
        if self._freed:
            self._roster.freeing.wait(self._freed, call.token)
            self._trying = self._next(call)
        while (trying := self._trying or self._on_another(call)) is not None:
            key, choice, pending = trying
            self._trying = None
            try:
                return self._answer(key, choice, pending, call)
            except _StaleError:
                pass
            except UnsupportedError as error:
                if self._chooses_itself(choice) or error.executed is not Executed.NO:
                    raise
                self._unnamed = True  # it is to be where its declaration says: its node knows
            except _ELSEWHERE as error:
                if error.executed is not Executed.NO:
                    raise
                self._refused[choice.node_id] = error
            call.check()
            self._trying = self._next(call)
        return self._last_resort(call)

    # ---- inside ----

    def _fits_never(self) -> bool:
        """Tell whether nothing that is freed helps: no node knows the model, or all are too small."""
        return frozenset() < {each.cause for each in self._passed} <= _NEVER

    def _on_another(self, call: Call) -> tuple[str, Choice, Pending] | None:
        """Try it on a node that is being started, once it is; None where it goes on none of them, or can go on none."""
        trying = None
        while trying is None and self._roster.await_start(
            call.token, elsewhere=_is_never_here(self._passed, self._own)
        ):
            trying = self._next(call)
        return trying

    def _next(self, call: Call | None = None) -> tuple[str, Choice, Pending] | None:
        """Send it to where it is best by now, with the time that is left; None where it goes nowhere."""
        request = PlacementRequest(
            **{**vars(self._request), "excluded": self._request.excluded | frozenset(self._refused)}
        )
        placement = self._roster.place(request)
        choice = placement.chosen
        if choice is None:
            self._passed = placement.why_passed()
            return None
        try:
            link = self._roster.link(choice.node_id)
        except WorkerError as error:  # lost since
            self._refused[choice.node_id] = error
            return self._next(call)
        key = f"{id(self)}-{len(self._refused)}-{self._stale}"
        guard = self._roster.reserve(key, choice, request)
        return (
            key,
            choice,
            link.send(
                self._name,
                self._inner(choice),
                self._how.meta if call is None else meta_of(call, self._how.meta),
                progress=self._how.progress,
                guard=guard,
            ),
        )

    def _inner(self, choice: Choice) -> Data:
        if self._name not in {"memory.allocate", "memory.load_model"}:
            return self._data
        inner = dict(self._data)
        if choice.step not in {Step.LOADED, Step.LOADING} and not self._chooses_itself(choice):
            inner["device_id"] = choice.device_id
        if self._fallback:
            inner["allow_fallback"] = False  # the model itself elsewhere is better than another here
        return inner

    def _chooses_itself(self, choice: Choice) -> bool:
        """Tell whether the node is named no device: a model's declaration, or its engine, may say which."""
        if self._name == "memory.load_model":
            return choice.is_default or self._unnamed
        return self._name != "memory.allocate"

    def _answer(self, key: str, choice: Choice, pending: Pending, call: Call) -> Any:
        found = _settled(self._roster, key, pending, call)
        if found.message is None:
            self._note_refusal(choice, found)
            raise _StaleError
        if self._name in {"memory.allocate", "memory.load_model"}:
            return pending.read(found)
        return pending.read_plainly(found)

    def _note_refusal(self, choice: Choice, found: Answered) -> None:
        self._stale += 1
        if found.view is None or self._stale > _STALE_MAX:
            why = f"{choice.node_id}: {found.refused}"
            error = DeviceUnavailableError(why, node=choice.node_id)
            error.executed = Executed.NO
            self._refused[choice.node_id] = error

    def _last_resort(self, call: Call) -> Any:
        """Say why no node took it: by the refusal of the best, or of the gateway's own, which is asked in its own words.

        That one may load a fallback for it. Nothing is asked of a node that may not be placed on now.
        """
        refusal = next(iter(self._refused.values()), None)
        if refusal is not None and not self._fallback:
            raise self._told(refusal)
        node = next(iter(self._refused), self._own)
        cause = next((each.cause for each in self._passed if each.node_id == node), None)
        if node is None or cause not in _FINAL:
            told = refusal or DeviceUnavailableError("nothing can be placed on any node now")
            told.executed = Executed.NO
            raise self._told(told)
        try:
            pending = self._roster.link(node).send(
                self._name, self._data, meta_of(call, self._how.meta), progress=self._how.progress
            )
            return pending.answer(call)
        except WorkerError as error:
            raise self._told(refusal or error) from None

    def _told(self, error: WorkerError) -> WorkerError:
        """Have an error say why no other node took it either."""
        others = [each.message for each in self._refused.values() if each is not error]
        reasons = [*others, *(each.reason for each in self._passed if each.cause is not Cause.EXCLUDED)]
        if reasons:
            error.details = {**error.details, "passed_over": reasons}
        return error


def _settled(roster: Roster, key: str, pending: Pending, call: Call) -> Answered:
    """Wait for a node's answer to what is counted under a key until then."""
    found: Answered | None = None
    try:
        found = pending.wait(call)
        return found
    finally:
        roster.settle(key, pending.link.node_id, found)


def _is_never_here(passed: tuple[Passed, ...], own: str | None) -> bool:
    """Tell whether something goes on no node of the gateway's machine, by why it does not on the gateway's own."""
    return any(each.node_id == own and each.cause in _NEVER for each in passed)


class _StaleError(Exception):
    """The node is another by now than what the placement was decided by."""


def _united(answers: list[Data]) -> Data:
    united = answers[0]
    for other in answers[1:]:
        united = {**united, **{key: _added(united[key], other[key]) for key in _UNITED}}
        united["steps"] = [*united["steps"], *other["steps"]]
        united["reason"] = f"{united['reason']}; {other['reason']}"
    return united


def _added(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _plan_of(data: Data, answers: list[tuple[list[int], Data]]) -> Data:
    """Put the nodes' rows back into the order in which they were asked for, and choose the first that fits."""
    rows: dict[int, tuple[Data, Data]] = {}
    for positions, answer in answers:
        rows.update(
            (position, (row, answer)) for position, row in zip(positions, answer["candidates"], strict=True)
        )
    ordered = [rows[position] for position in range(len(data["candidates"]))]
    fitting = next(((row, answer) for row, answer in ordered if row["fits"]), None)
    candidates = [row for row, _ in ordered]
    if fitting is None:
        return {**ordered[0][1], "candidates": candidates, "selected": None}
    row, answer = fitting
    reason = f"{split(row['device_id'])[0]}: {answer['reason']}"
    return {**answer, "candidates": candidates, "selected": row["name"], "reason": reason}
