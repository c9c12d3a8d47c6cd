"""Emptying a node, so that it can be taken away: what it holds goes to others, or is given up, or stays for a reason said."""

import time
from typing import Any

from protocol.vocabulary import MemoryType, ModelState
from worker.core.errors import AllocationNotFoundError, NodeNotFoundError, OutOfMemoryError, WorkerError
from worker.fleet.asked import Data, How, Run
from worker.fleet.holdings import Holdings
from worker.fleet.links import Link
from worker.fleet.names import joined, split
from worker.fleet.placing import Placing
from worker.fleet.roster import Roster
from worker.fleet.transfers import Transfers
from worker.fleet.views import PlacementRequest
from worker.stream.work import Call

_PAGE = 1000
_LOADED = {ModelState.LOADED.value, ModelState.OFFLOADED.value}


class Draining:
    """Moves nothing but what this gateway's host has; models are everyone's."""

    def __init__(self, roster: Roster, holdings: Holdings, placing: Placing, transfers: Transfers) -> None:
        self._roster, self._holdings = roster, holdings
        self._placing, self._transfers = placing, transfers

    def begin(self, _name: str, data: Data, how: How) -> Run:
        """Place nothing more there, from here on; then empty it."""
        node = data["node"]
        names = self._roster.names()
        if node not in names:
            raise NodeNotFoundError(
                f"no node {node!r}; there is {', '.join(names)}", node=node, known_nodes=names
            )
        link = self._roster.link(node)
        link.drain()
        return lambda call: self._drain(link, how, call)

    # ---- inside ----

    def _drain(self, link: Link, how: How, call: Call) -> Data:
        started = time.monotonic_ns()
        result: Data = {"node": link.node_id, "moved": [], "unloaded": [], "kept": []}
        for row in self._allocations(link, call):
            self._move(link, row, result, call)
        models = link.ask("memory.get_model_status", {}, call)["models"]
        costs = [self._move_model(link, row, result, how, call) for row in models if row["state"] in _LOADED]
        moving = (time.monotonic_ns() - started) / 1e6
        known = [each for each in costs if each is not None]
        result["cost_ms"] = None if len(known) < len(costs) else moving + sum(known)
        return result

    def _allocations(self, link: Link, call: Call) -> list[Data]:
        rows: list[Data] = []
        after = None
        while True:
            page = link.ask("memory.get_allocations", {"limit": _PAGE, "after": after}, call)
            rows += page["allocations"]
            if page["next"] is None:
                return rows
            after = page["next"]

    def _move(self, link: Link, row: Data, result: Data, call: Call) -> None:
        allocation_id = row["allocation_id"]
        call.check()
        why = self._why_it_stays(link, row)
        try:
            if why is None:
                device_id = self._elsewhere(link, row["device_id"], row["size_bytes"])
                moved = self._transfers.move(allocation_id, device_id, call)
                result["moved"].append(
                    {
                        "allocation_id": allocation_id,
                        "destination_allocation_id": moved["destination_allocation_id"],
                        "model_id": None,
                        "source_device_id": row["device_id"],
                        "destination_device_id": moved["destination_device_id"],
                        "moved_bytes": row["size_bytes"],
                    }
                )
        except AllocationNotFoundError:
            return  # its host freed it meanwhile
        except WorkerError as error:
            call.check()
            why = error.message
        if why is not None:
            result["kept"].append({"id": allocation_id, "reason": why})

    def _why_it_stays(self, link: Link, row: Data) -> str | None:
        if row["memory_type"] == MemoryType.EXTERNAL:
            return "it is held by the host: the fleet has only the record of it"
        if row["memory_type"] == MemoryType.SHARED:
            return "the host maps it: it would be at another path"
        if row["allocation_id"] not in self._holdings.on_node(link.node_id):
            return "another gateway's host has it, and knows it by this id"
        return None

    def _elsewhere(self, link: Link, device_id: str, size_bytes: int) -> str:
        view = self._roster.view(link.node_id)
        inner = split(device_id)[1]
        kind = next((each.kind for each in (view.devices if view else ()) if each.device_id == inner), None)
        request = PlacementRequest(
            required_bytes=size_bytes,
            kind=kind,
            excluded=frozenset({link.node_id}),
            make_room=False,
            new_use=False,
        )
        placement = self._roster.place(request)
        if placement.chosen is None:
            reasons = "; ".join(
                each.reason for each in placement.why_passed() if each.node_id != link.node_id
            )
            raise OutOfMemoryError(f"no other node has room for it: {reasons or 'there is none'}")
        return joined(placement.chosen.node_id, placement.chosen.device_id)

    def _move_model(self, link: Link, row: Data, result: Data, how: How, call: Call) -> int | None:
        """Load a model where it fits, if anywhere, and unload it here. Returns what loading it again is expected to take."""
        model_id = row["model_id"]
        if row["in_use"] or row["pinned"]:
            result["kept"].append({"id": model_id, "reason": "in use" if row["in_use"] else "pinned"})
            return 0
        loaded = self._load_elsewhere(link, model_id, how, call)
        try:
            gone = link.ask("memory.unload_model", {"model_id": model_id}, call)
        except WorkerError as error:
            call.check()
            result["kept"].append({"id": model_id, "reason": error.message})
            return 0
        if loaded is not None:
            moved: dict[str, Any] = {
                "allocation_id": None,
                "destination_allocation_id": None,
                "model_id": model_id,
                "source_device_id": row["device_id"],
                "destination_device_id": loaded["device_id"],
                "moved_bytes": loaded["measured_bytes"] or gone["freed_bytes"],
            }
            result["moved"].append(moved)
            return 0
        kept = {key: gone[key] for key in ("model_id", "freed_bytes", "returned_bytes", "reload_ms")}
        result["unloaded"].append(
            {**kept, "device_id": row["device_id"], "reason": "no other node has room for it"}
        )
        reload_ms: int | None = gone["reload_ms"]
        return reload_ms

    def _load_elsewhere(self, link: Link, model_id: str, how: How, call: Call) -> Data | None:
        try:
            found: Data = self._placing.elsewhere(link.node_id, model_id, how)(call)
        except WorkerError:
            call.check()
            return None
        return found
