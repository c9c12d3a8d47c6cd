"""What every node answers: asked side by side, merged into one."""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray

from protocol.actions import ACTIONS
from protocol.vocabulary import DeviceState, Executed, HealthState, PressureLevel
from worker.core.errors import CancelledError, DeadlineExceededError, DeviceUnavailableError, WorkerError
from worker.core.health import Health, PartHealth, worst
from worker.fleet.asked import Data, How, Run
from worker.fleet.links import LOST, QUESTION_SECONDS, Pending, meta_of
from worker.fleet.merging import MERGES, Answers, worst_level
from worker.fleet.names import ALL, joined, split
from worker.fleet.roster import Roster
from worker.fleet.views import DeviceView
from worker.metrics.history import History
from worker.stream.work import Call

_SHARE = 0.75
"""Of the time that a question has, so much is waited for all nodes: what the others answered is told in time."""
_EVEN_OF_NONE = {"memory.get_status", "worker.get_health"}
"""What is answered where no node answers: devices by what is known of them, and the gateway's own parts."""


class Everywhere:
    """Asks nodes, each of which may be lost or hang: the answer is of those that answered."""

    def __init__(self, roster: Roster, own: str, history: History, health: Health) -> None:
        self._roster = roster
        self._own = own
        self._history, self._health = history, health
        # All mutable state: of each device its row in the last status that its node answered, and when that was.
        self._told: dict[str, tuple[float, Data]] = {}
        self._others: dict[str, Callable[[Data, How], Run]] = {
            "memory.get_allocations": self._allocations,
            "memory.get_status": self._status,
            "memory.model_optimize": self._model_optimize,
            "worker.get_health": self._whole_health,
        }

    def begin(self, name: str, data: Data, how: How) -> Run:
        """Ask the node whose device is named, else all."""
        asked = data.get("device_id")
        if name == "memory.get_allocations" and data.get("allocation_id") is not None:
            return self._of_one_id(data, how)
        if asked is not None and asked != ALL:
            node, device = split(asked)
            one = self._roster.link(node or self._own).send(name, {**data, "device_id": device}, how.meta)
            return lambda call: self._finished(name, one.answer(call))
        if name in self._others:
            return self._others[name](data, how)
        pending = self._send(name, data, how)
        return lambda call: self._finished(name, MERGES[name](self._answers(name, pending, call)))

    # ---- inside ----

    def _send(
        self, name: str, data: Data, how: How, wanted: Collection[str | None] | None = None
    ) -> list[Pending]:
        """Ask the nodes that are there, the gateway's own first; of them those alone that are wanted.

        What changes something is done on those that are being started as well, once they are. Nobody waits for that: they
        hold nothing by then, and may have read a file before it was another.
        """
        links = self._roster.reachable(starting=ACTIONS[name].changes)
        there = sorted((each for each in links if each.started), key=lambda each: each.node_id != self._own)
        for link in links:
            if not link.started:
                link.send(name, data, {})
        return [link.send(name, data, how.meta) for link in there if wanted is None or link.node_id in wanted]

    def _answers(self, name: str, pending: list[Pending], call: Call) -> Answers:
        """Return what each answered; a node that is lost has none. What changes something is waited for to its end.

        DeviceUnavailableError where none answers, but for what is answered even so.
        """
        ready = pending
        if pending and not ACTIONS[name].changes:
            ready = self._answered(pending, call.token.left_ns)
        answers: Answers = {}
        failed: WorkerError | None = None
        for each in ready:
            try:
                answers[each.link.node_id] = each.answer(call)
            except DeviceUnavailableError as error:  # lost, or its worker is being started again
                failed = error
            except (CancelledError, DeadlineExceededError) as error:
                for other in ready:
                    other.cancel()
                if ACTIONS[name].changes and len(ready) > 1:
                    error.executed = Executed.UNKNOWN  # others may have done it
                raise
        if answers or name in _EVEN_OF_NONE:
            return answers
        why = "no node of the fleet answers" if pending else "every node of the fleet is lost"
        raise failed or DeviceUnavailableError(why)

    def _answered(self, pending: list[Pending], left_ns: int | None) -> list[Pending]:
        """Return which of these have their answer soon; all where none has, and there is time left to wait for one."""
        seconds = QUESTION_SECONDS
        if left_ns is not None:
            seconds = min(seconds, left_ns / 1e9 * _SHARE)
        refs, since = [each.ref for each in pending], time.monotonic()
        with suppress(*LOST):
            refs, _ = ray.wait(refs, num_returns=len(refs), timeout=seconds)
        if not refs and seconds < QUESTION_SECONDS:
            return pending
        there = set(refs)
        for each in pending:
            if each.ref not in there:
                self._roster.silence.ask(each.link, since)
        return [each for each in pending if each.ref in there]

    def _finished(self, name: str, answer: Data) -> Data:
        """Add what the gateway knows itself."""
        if name == "memory.get_analytics" and answer["actions"] is not None:
            told = [each for each in answer["actions"] if each["action"].startswith("operation:")]
            return {**answer, "actions": [*self._history.actions(answer["time_range_ms"]), *told]}
        return answer

    def _whole_health(self, data: Data, how: How) -> Run:
        """Ask all nodes; one that does not answer, or is lost, is told of by the gateway's own parts."""
        pending = self._send("worker.get_health", data, how)

        def run(call: Call) -> Data:
            answers = self._answers("worker.get_health", pending, call)
            silent = {f"node:{each.link.node_id}" for each in pending if each.link.node_id not in answers}
            here = [
                replace(each, state=HealthState.DEGRADED, reason="it does not answer")
                if each.name in silent and each.state is HealthState.OK
                else each
                for each in self._health.read()
            ]
            parts = [*map(vars, here), *MERGES["worker.get_health"](answers)["parts"]]
            return {
                "state": worst([PartHealth("", HealthState(each["state"])) for each in parts]),
                "parts": parts,
            }

        return run

    def _of_one_id(self, data: Data, how: How) -> Run:
        node, allocation_id = split(data["allocation_id"])
        inner = {**data, "allocation_id": allocation_id}
        if data.get("device_id") not in {None, ALL}:
            inner["device_id"] = split(data["device_id"])[1]
        return self._roster.link(node or self._own).send("memory.get_allocations", inner, how.meta).answer

    def _status(self, data: Data, how: How) -> Run:
        """Ask the nodes of a page alone; devices that do not answer are in it by what is known of them."""
        devices, after = [device for device, _ in self._roster.devices()], data.get("after")
        if after is not None:
            devices = devices[devices.index(after) + 1 :] if after in devices else []
        limit = data.get("limit") or len(devices)
        page, rest = devices[:limit], devices[limit:]
        asked = {key: each for key, each in data.items() if key not in {"limit", "after"}}
        wanted = {split(each)[0] for each in page} | {self._own}
        pending = self._send("memory.get_status", asked, how, wanted)

        def run(call: Call) -> Data:
            answers = self._answers("memory.get_status", pending, call)
            rows = {row["device_id"]: row for each in answers.values() for row in each["devices"]}
            now = time.monotonic()
            self._told.update((device, (now, row)) for device, row in rows.items())
            shown = [rows.get(each) or self._unanswered(each, now) for each in page]
            host = (answers.get(self._own) or {"host": _NO_HOST})["host"]
            return {
                "devices": shown,
                "host": host,
                "pressure_level": worst_level(each["pressure_level"] for each in shown),
                "age_ms": max((each["age_ms"] or 0 for each in (*answers.values(), *shown)), default=0),
                "next": page[-1] if rest else None,
            }

        return run

    def _unanswered(self, device: str, now: float) -> Data:
        """Return a device's row where its node did not answer: the last figures with their age, where it hangs."""
        node, device_id = split(device)
        view, how = self._roster.view(node or ""), self._roster.condition(node or "")
        found = next((each for each in (view.devices if view else ()) if each.device_id == device_id), None)
        state = how.devices or DeviceState.UNAVAILABLE
        row = _row(device, found, state, f"it {how.why or 'does not answer'}")
        told_at, last = self._told.get(device, (now, None))
        if last is None or state is not DeviceState.UNAVAILABLE:
            return row
        said = {key: row[key] for key in _OF_NOW}
        return {**last, **said, "age_ms": (last["age_ms"] or 0) + round((now - told_at) * 1000)}

    def _allocations(self, data: Data, _how: How) -> Run:
        """List node by node: a page ends with a node's last, and ``next`` names where the next one begins."""
        limit: int = data.get("limit") or 100
        names = [each.node_id for each in self._roster.reachable()]
        node, after = split(data.get("after") or "")
        if node is not None:
            names = names[names.index(node) :] if node in names else []

        def run(call: Call) -> Data:
            rows: list[Data] = []
            inner = {**data, "after": after if node is not None and after != _FIRST else None}
            for position, name in enumerate(names):
                try:
                    asking = self._roster.link(name).send(
                        "memory.get_allocations", {**inner, "limit": limit - len(rows)}, meta_of(call)
                    )
                    found = self._answers("memory.get_allocations", [asking], call)[name]
                except DeviceUnavailableError:
                    continue
                rows += found["allocations"]
                inner["after"] = None
                if found["next"] is not None:
                    return {"allocations": rows, "next": joined(name, found["next"])}
                if len(rows) >= limit and position + 1 < len(names):
                    return {"allocations": rows, "next": joined(names[position + 1], _FIRST)}
            return {"allocations": rows, "next": None}

        return run

    def _model_optimize(self, data: Data, _how: How) -> Run:
        """Ask node by node until what was wanted is freed, or as many models are unloaded as may be."""
        links = self._roster.reachable()

        def run(call: Call) -> Data:
            answers: Answers = {}
            left = dict(data)
            for link in links:
                try:
                    found = link.ask("memory.model_optimize", left, call)
                except DeviceUnavailableError:
                    continue
                answers[link.node_id] = found
                if left.get("max_models_to_unload") is not None:
                    left["max_models_to_unload"] = max(
                        0, left["max_models_to_unload"] - len(found["models_unloaded"])
                    )
                if left.get("min_memory_to_free_bytes") is not None:
                    left["min_memory_to_free_bytes"] -= found["memory_freed_bytes"]
                    if left["min_memory_to_free_bytes"] <= 0:
                        break
            if not answers:
                raise DeviceUnavailableError("no node of the fleet answers")
            merged = MERGES["memory.model_optimize"](answers)
            wanted = data.get("min_memory_to_free_bytes")
            if wanted is not None and merged["memory_freed_bytes"] >= wanted:
                merged["goal_met"] = True
            return merged

        return run


_FIRST = "first"
"""In ``next``, before any allocation of a node: no allocation's id is so short a word."""
_OF_NOW = ("state", "state_reason", "pressure_level", "allocations", "usage", "fragmentation", "processes")
"""Of a device's row: what says nothing where it is old."""
_NO_HOST: dict[str, Any] = {"total_bytes": None, "available_bytes": None, "process_rss_bytes": None}


def _row(device: str, view: DeviceView | None, state: DeviceState, why: str) -> Data:
    """Return a device's row in a status where it can't be asked."""
    from protocol.results import DeviceStatus  # noqa: PLC0415 - where a node is lost

    unknown = dict.fromkeys(DeviceStatus.__dataclass_fields__)
    nothing = dict.fromkeys(
        (
            "allocated_bytes",
            "external_bytes",
            "cached_bytes",
            "peak_allocated_bytes",
            "allocation_count",
            "model_bytes",
        ),
        0,
    )
    known = {
        "device_id": device,
        "kind": "cpu" if view is None else view.kind.value,
        "name": device,
        "state": state.value,
        "state_reason": why,
        "pressure_level": PressureLevel.UNKNOWN.value,
        "total_bytes": None if view is None else view.total_bytes,
    }
    return {**unknown, **nothing, **known}
