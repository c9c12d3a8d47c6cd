"""Contents from one node to another: reserved there, carried in bounded pieces through Ray's object store, verified, or undone.

On both nodes the contents pass through a shared allocation of their worker's, which the node's actor maps: counted in
the ledger as any other, and freed whatever happens.
"""

import hashlib
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

from protocol.record import Record
from protocol.vocabulary import MemoryType, TransferState, TransferType
from worker.core.cancellation import CancelToken
from worker.core.errors import (
    AllocationNotFoundError,
    CancelledError,
    ChecksumMismatchError,
    DeadlineExceededError,
    InternalError,
    UnsupportedError,
    WorkerError,
)
from worker.core.ids import Ids
from worker.core.records import no_report
from worker.fleet.asked import Data, How, Run
from worker.fleet.holdings import Holdings
from worker.fleet.links import LOST, Link, Said, meta_of
from worker.fleet.names import joined, split
from worker.fleet.roster import Roster
from worker.manager.transfer_table import ENDED, TransferTable
from worker.stream.work import Answer, Call, Work

PIECE_BYTES = 8 * 2**20
IN_FLIGHT = 4
"""Pieces between two nodes at once: 32 MiB of the object store for a transfer, whatever its size."""
_SHARED = MemoryType.SHARED.value


class Ends(Record):
    """A transfer's two ends."""

    source: Link
    source_id: str
    destination: Link
    device_id: str
    memory_type: str
    move: bool
    verify: bool


class Transfers:
    """Transfers between nodes, and how far each has come. Thread-safe."""

    def __init__(self, roster: Roster, own: str, holdings: Holdings, ids: Ids) -> None:
        self._roster = roster
        self._own = own
        self._holdings = holdings
        self._table = TransferTable(ids)
        self._ids = ids

    def is_here(self, transfer_id: str) -> bool:
        """Tell whether a transfer is one between nodes: nodes' own are named with their node."""
        return self._ids.number(transfer_id) is not None

    def get(self, transfer_id: str) -> Data:
        """Return a transfer as it stands. InvalidRequestError if there is none."""
        return vars(self._table.get(transfer_id))

    def begin(self, data: Data, how: How) -> Run:
        """Open a transfer, which is carried out by who waits for it, or after the answer."""
        source_node, source_id = split(data["source_allocation_id"])
        destination_node, device_id = split(data["destination_device_id"])
        ends = Ends(
            self._roster.link(source_node or self._own), source_id, self._roster.link(destination_node or self._own),
            device_id, data.get("memory_type", MemoryType.DEVICE.value),
            data.get("transfer_type") == TransferType.MOVE, bool(data.get("verify")),
        )  # fmt: skip
        self._check(ends)
        asking = ends.source.send("memory.get_allocations", {"allocation_id": source_id}, how.meta)

        def run(call: Call) -> Any:
            row = _row_of(ends, asking.answer(call))
            record = self._table.open(
                state=TransferState.RUNNING,
                source_allocation_id=row["allocation_id"],
                source_device_id=row["device_id"],
                destination_device_id=joined(ends.destination.node_id, device_id),
                size_bytes=row["size_bytes"],
            )
            perform = partial(self._perform, record.transfer_id, ends, row)
            if data.get("wait", True):
                return perform(call)
            abandoned = partial(self._abandon, record.transfer_id)
            later = Work(action="memory.transfer", run=perform, quick=False, abandoned=abandoned)
            return Answer(vars(record), background=later)

        return run

    def move(self, allocation_id: str, device_id: str, call: Call) -> Data:
        """Move an allocation, as a drain does. Raises why it stays."""
        data = {
            "source_allocation_id": allocation_id,
            "destination_device_id": device_id,
            "transfer_type": "move",
        }
        moved: Data = self.begin(data, How({}))(call)
        return moved

    # ---- inside ----

    def _check(self, ends: Ends) -> None:
        there = ends.destination.node_id
        if ends.memory_type == _SHARED and not self._roster.is_here(there):
            raise UnsupportedError(
                f"shared memory is mapped by the host, and {there} is another machine: transfer to {self._own}/cpu",
                node=there,
            )
        if ends.memory_type == MemoryType.EXTERNAL:
            raise UnsupportedError(
                "external memory is held by the host: there is nothing to copy into",
                memory_type=MemoryType.EXTERNAL,
            )

    def _perform(self, transfer_id: str, ends: Ends, row: Data, call: Call) -> Data:
        """Carry a transfer out. On any failure both nodes are as before."""
        started = time.monotonic_ns()
        made: list[tuple[Link, str]] = []
        try:
            copied = _Copy(ends, row, call, made)
            into = copied.reserve()  # first: where there is no room, nothing was read
            checksum = copied.carry(copied.read_from(), into, partial(self._note, transfer_id, row, call))
            done = copied.settle(into)
            if ends.move:
                copied.free(ends.source, ends.source_id)
                self._holdings.remove((row["allocation_id"],))
            made.remove((ends.destination, into))
        except BaseException as error:
            self._abandon(transfer_id, error)
            raise
        finally:
            for link, allocation_id in made:
                with suppress(WorkerError):
                    _Copy(ends, row, _uncancelled(), []).free(link, allocation_id)
        elapsed = max(1, time.monotonic_ns() - started)
        record = self._table.update(
            transfer_id,
            state=TransferState.COMPLETED,
            destination_allocation_id=done["allocation_id"],
            destination_device_id=done["device_id"],
            completed_bytes=row["size_bytes"],
            duration_us=elapsed // 1000,
            bytes_per_second=row["size_bytes"] * 1_000_000_000 // elapsed,
            checksum=checksum if ends.verify else None,
            shared_memory=done["shared_memory"],
        )
        self._holdings.add(done["allocation_id"], done["device_id"], done["incarnation"])
        return Said(vars(record), done["incarnation"])

    def _note(self, transfer_id: str, row: Data, call: Call, completed: int) -> None:
        self._table.update(transfer_id, completed_bytes=completed)
        call.report(completed, row["size_bytes"])

    def _abandon(self, transfer_id: str, error: BaseException) -> None:
        if self._table.get(transfer_id).state in ENDED:
            return
        stopped = isinstance(error, CancelledError | DeadlineExceededError)
        known = (
            error if isinstance(error, WorkerError) else InternalError("a bug in the gateway; the log has it")
        )
        known.details = {"transfer_id": transfer_id, **known.details}
        state = TransferState.CANCELLED if stopped else TransferState.FAILED
        self._table.update(transfer_id, state=state, error=known.body())


class _Copy:
    """The steps of one transfer. What they make is noted in ``made`` until it stays."""

    def __init__(self, ends: Ends, row: Data, call: Call, made: list[tuple[Link, str]]) -> None:
        self._ends, self._row, self._call, self._made = ends, row, call, made

    def reserve(self) -> str:
        """Make the allocation on the other node that the contents arrive in. Returns its id there."""
        row = self._row
        asked = {
            "size_bytes": row["size_bytes"],
            "device_id": "cpu",
            "memory_type": _SHARED,
            "initialize": "none",
            "owner": row["owner"],
            "purpose": row["purpose"],
            "persistent": row["persistent"] and self._ends.move,
            "lease_ms": row["lease_expires_in_ms"] and max(1, row["lease_expires_in_ms"]),
        }
        found = self._ends.destination.ask("memory.allocate", asked, self._call)
        return self._noted(self._ends.destination, found["allocation_id"])

    def read_from(self) -> str:
        """Return the id of an allocation on the source's node that its actor can map: the source itself, or a copy."""
        if self._row["shared_memory"] is not None:
            return self._ends.source_id
        asked = {
            "source_allocation_id": self._ends.source_id,
            "destination_device_id": "cpu",
            "memory_type": _SHARED,
        }
        found = self._ends.source.ask("memory.transfer", asked, self._call)
        return self._noted(self._ends.source, found["destination_allocation_id"])

    def carry(self, source_id: str, into: str, note: Any) -> str:
        """Carry the contents over, each piece compared where it arrived. Returns their digest."""
        size, whole, under_way = self._row["size_bytes"], hashlib.sha256(), deque[tuple[int, Any, Any]]()
        source, destination = self._ends.source, self._ends.destination
        for offset in range(0, size, PIECE_BYTES):
            length = min(PIECE_BYTES, size - offset)
            read = source.handle.read_piece.options(num_returns=2)
            piece, digest = read.remote(source_id, offset, length)
            under_way.append(
                (offset + length, digest, destination.handle.write_piece.remote(into, offset, piece))
            )
            del piece  # the object store has no use for it once it is written
            if len(under_way) >= IN_FLIGHT:
                self._await(under_way.popleft(), whole, note)
        while under_way:
            self._await(under_way.popleft(), whole, note)
        return f"sha256:{whole.hexdigest()}"

    def settle(self, into: str) -> Data:
        """Have what arrived where it is wanted. Returns the allocation that it is, in the fleet's names."""
        ends = self._ends
        if ends.memory_type == _SHARED and ends.device_id == "cpu":
            rows = ends.destination.ask("memory.get_allocations", {"allocation_id": into}, self._call)
            return {**rows["allocations"][0], "incarnation": rows.incarnation}
        asked = {
            "source_allocation_id": into,
            "destination_device_id": ends.device_id,
            "memory_type": ends.memory_type,
            "transfer_type": "move",
            "verify": ends.verify,
        }
        moving = ends.destination.send("memory.transfer", asked, meta_of(self._call))
        moving.ours = True
        done = moving.answer(self._call)
        return {
            "allocation_id": done["destination_allocation_id"],
            "device_id": done["destination_device_id"],
            "shared_memory": done["shared_memory"],
            "incarnation": done.incarnation,
        }

    def free(self, link: Link, allocation_id: str) -> None:
        """Free an allocation on its node."""
        link.ask("memory.deallocate", {"allocation_id": allocation_id, "force": True}, self._call)

    def _noted(self, link: Link, allocation_id: str) -> str:
        inner = split(allocation_id)[1]
        self._made.append((link, inner))
        return inner

    def _await(self, piece: tuple[int, Any, Any], whole: Any, note: Any) -> None:
        self._call.check()
        completed, digest, written = piece
        asked = self._ends.source
        try:
            expected = asked.result(digest, self._call.token)
            asked = self._ends.destination
            found = asked.result(written, self._call.token)
        except LOST as error:
            raise asked.lost(error, "memory.transfer") from None
        if expected != found:
            raise ChecksumMismatchError(
                f"what arrived has {found.hex()} where {expected.hex()} was sent; it was discarded",
                expected=expected.hex(),
                found=found.hex(),
            )
        whole.update(expected)
        note(completed)


def _row_of(ends: Ends, answer: Data) -> Data:
    rows = answer["allocations"]
    if not rows:
        raise AllocationNotFoundError(f"{ends.source_id} is not live", allocation_id=ends.source_id)
    row: Data = rows[0]
    if row["memory_type"] == MemoryType.EXTERNAL:
        raise UnsupportedError(
            f"{row['allocation_id']} is held by the host: the fleet has only the record of it",
            allocation_id=row["allocation_id"],
            memory_type=MemoryType.EXTERNAL,
        )
    return row


def _uncancelled() -> Call:
    return Call(CancelToken(time.monotonic_ns), no_report)
