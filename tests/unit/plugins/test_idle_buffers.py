"""Idle buffers: kept within a limit and for a while, and the first to go where memory is short."""

from pathlib import Path
from typing import Any

import pytest

from protocol.results import Limits
from protocol.vocabulary import ClearType, Initialize
from tests.unit.machine import MIB
from tests.unit.plugins.lender import Lender, lender
from worker.core.errors import CancelledError, LimitExceededError, OutOfMemoryError
from worker.core.records import AllocationRequest
from worker.plugins._buffers import KEEP_NS, OWNER
from worker.policy.pressure import DEFAULT_LIMITS

__all__ = ["lender"]


GIB = 2**30


def limit(lender: Lender, size_bytes: int) -> None:
    """Set the cap of the CPU."""
    before = lender.machine.manager.devices.limits("cpu")
    lender.machine.memory.relief.set_limits(
        "cpu", Limits(size_bytes, before.reserve_bytes, before.thresholds)
    )


def test_idle_ones_of_other_sizes_go_before_it_is_refused(lender: Lender) -> None:
    """What only waits for its next use is in no caller's way, in a cap either."""
    limit(lender, 8 * MIB)
    with lender.take(3 * MIB), lender.take(4 * MIB):
        pass
    assert len(lender.rows) == 2
    with lender.take(8 * MIB):
        assert len(lender.rows) == 1
        with pytest.raises(LimitExceededError), lender.take(MIB):
            pass
    assert lender.buffers.holding("cpu").in_use_bytes == 0


def test_they_are_the_first_to_go(lender: Lender) -> None:
    """A plan asks them before anything that costs, for what is idle alone, and their bytes come back to the system."""
    with lender.take(2 * MIB) as used:
        used.memory[:] = b"x" * 2 * MIB
        with lender.take(4 * MIB) as idle:
            idle.memory[:] = b"x" * 4 * MIB
        (quote,) = [each for each in lender.machine.memory.consumers.quotes("cpu") if each.kind == OWNER]
        assert quote.consumer_id == "pool:buffers:cpu"
        assert (quote.holding.held_bytes, quote.holding.spare_bytes) == (6 * MIB, 4 * MIB)
        assert [(each.bytes, each.cost_ms) for each in quote.offers] == [(4 * MIB, 0.0)]
        (consumer,) = lender.buffers.consumers("cpu")
        assert consumer.release(quote.offers[0], lender.machine.token()) == 4 * MIB
        assert len(lender.rows) == 1
        assert bytes(used.memory[:2]) == b"xx"


def test_an_allocation_that_makes_room_gets_what_is_idle(lender: Lender) -> None:
    """Of a machine with 8 GiB free the buffers keep 6: who needs 4 gets them at price 0, and is told whose they were."""
    with lender.take(6 * GIB):
        pass
    memory = lender.machine.memory.allocations
    request = AllocationRequest("cpu", 4 * GIB, initialize=Initialize.NONE)
    with pytest.raises(OutOfMemoryError):
        memory.allocate(memory.new_id(), request, lender.machine.token())
    made = memory.allocate(memory.new_id(), request, lender.machine.token(), make_room=True)
    (gone,) = made.released
    assert (gone.consumer_id, gone.kind, gone.cost_ms) == ("pool:buffers:cpu", OWNER, 0)
    assert gone.claimed_bytes == 6 * GIB == gone.returned_bytes
    assert lender.rows == []


def test_above_its_limit_nothing_is_kept(lender: Lender) -> None:
    """A limit that fell under pressure holds for what comes back, and ends with the pressure."""
    (consumer,) = _after_one_use(lender)
    consumer.limit_changed(MIB, "pressure")
    with lender.take(2 * MIB):
        pass
    assert lender.buffers.holding("cpu").held_bytes <= MIB
    consumer.limit_changed(None, "calm")
    with lender.take(2 * MIB):
        pass
    assert lender.buffers.holding("cpu").held_bytes >= 2 * MIB


def _after_one_use(lender: Lender) -> list[Any]:
    with lender.take(MIB):
        pass
    return list(lender.buffers.consumers("cpu"))


def test_what_is_idle_for_long_goes_by_itself(lender: Lender) -> None:
    """One that is used again stays; the timer runs only while there is something to give back."""
    with lender.take(MIB):
        pass
    with lender.take(4 * MIB):
        pass
    lender.pass_time(KEEP_NS // 2)
    with lender.take(MIB):
        pass
    lender.pass_time(KEEP_NS // 2)
    assert lender.buffers.holding("cpu").held_bytes == MIB
    lender.pass_time(KEEP_NS)
    assert lender.rows == []
    assert lender.later == []


def test_one_that_a_host_freed_is_lent_no_more(lender: Lender) -> None:
    """Who clears everything keeps what is in use, and by force frees it: what was in view stays addressable."""
    with lender.take(MIB) as buffer:
        buffer.memory[:] = b"x" * MIB
        cleared = lender.machine.memory.relief.clear(
            ("cpu",), ClearType.ALL, None, lender.machine.token(), force=False
        )
        assert [each.id for each in cleared.kept] == lender.rows
        lender.machine.memory.relief.clear(("cpu",), ClearType.ALL, None, lender.machine.token(), force=True)
        assert lender.rows == []
        buffer.memory[0] = 1
    assert lender.buffers.holding("cpu").held_bytes == 0
    with lender.take(MIB):
        assert len(lender.rows) == 1


def test_idle_ones_go_where_a_cap_is_what_lacks(tmp_path: Path) -> None:
    """They are allocations, which the cap counts: an allocation that needs their bytes has them, and says so."""
    lender = Lender(tmp_path)
    with lender.take(8 * MIB, device="cpu"):
        pass
    lender.machine.manager.devices.set_limits("cpu", Limits(10 * MIB, 0, DEFAULT_LIMITS.thresholds))
    request = AllocationRequest("cpu", 4 * MIB)
    allocations = lender.machine.memory.allocations
    with pytest.raises(LimitExceededError):
        allocations.allocate("alloc-90", request, lender.machine.token())
    made = allocations.allocate("alloc-90", request, lender.machine.token(), make_room=True)
    (gone,) = made.released
    assert (gone.consumer_id, gone.claimed_bytes) == ("pool:buffers:cpu", 8 * MIB)
    assert "count towards the cap" in gone.reason
    assert lender.rows == []
    with pytest.raises(LimitExceededError):
        allocations.allocate(
            "alloc-91", AllocationRequest("cpu", 7 * MIB), lender.machine.token(), make_room=True
        )


@pytest.mark.parametrize("kind", [ClearType.CACHE, ClearType.ALL])
def test_they_go_as_caches_are_cleared_and_what_is_lent_stays(lender: Lender, kind: ClearType) -> None:
    """Nothing of them has to be built again; the answer counts their bytes, and those that came back."""
    relief, token = lender.machine.memory.relief, lender.machine.token()
    with lender.take(2 * MIB) as used:
        with lender.take(4 * MIB) as idle:
            idle.memory[:] = b"x" * 4 * MIB
        lent = lender.buffers.holding("cpu").in_use_bytes
        relief.clear(("cpu",), ClearType.MODELS, None, token, force=False)
        assert lender.buffers.idle_bytes("cpu") == 4 * MIB
        cleared = relief.clear(("cpu",), kind, None, token, force=False)
        assert (cleared.cleared_bytes, cleared.returned_bytes) == (4 * MIB, 4 * MIB)
        assert (cleared.allocations_freed, cleared.allocation_ids) == (0, ())
        assert lender.buffers.holding("cpu").held_bytes == lent == 2 * MIB
        used.memory[:2] = b"xx"
    assert lender.buffers.idle_bytes("cpu") == 2 * MIB


def test_a_clear_that_is_cancelled_leaves_them(lender: Lender) -> None:
    """As all that it would have cleared."""
    with lender.take(MIB):
        pass
    token = lender.machine.token()
    token.cancel()
    with pytest.raises(CancelledError):
        lender.machine.memory.relief.clear(("cpu",), ClearType.CACHE, None, token, force=False)
    assert lender.buffers.idle_bytes("cpu") == MIB


def test_one_that_can_not_be_freed_is_kept_and_so_are_those_after_it(
    lender: Lender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the ledger still, so it is lent or given back another time: by who asks, and after a while."""
    backend = lender.machine.backends["cpu"]
    free, failing = backend.free, [True]

    def fails(allocation_id: str) -> int | None:
        if failing:
            raise RuntimeError("the driver is busy")
        return free(allocation_id)

    monkeypatch.setattr(backend, "free", fails)
    with lender.take(MIB), lender.take(4 * MIB):
        pass
    with pytest.raises(RuntimeError):
        lender.buffers.drop("cpu")
    assert (len(lender.rows), lender.buffers.idle_bytes("cpu")) == (2, 5 * MIB)
    with pytest.raises(RuntimeError):
        lender.pass_time(KEEP_NS)
    assert (len(lender.rows), lender.buffers.idle_bytes("cpu")) == (2, 5 * MIB)
    failing.clear()
    lender.pass_time(KEEP_NS)
    assert lender.rows == []
    assert lender.later == []


def test_where_nothing_can_be_done_later_the_next_use_sees_to_it(
    lender: Lender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is idle is looked for again, also where memory was short as that was arranged."""

    def short(_due_ns: int, _run: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(lender.buffers, "_later", short)
        with pytest.raises(MemoryError), lender.take(MIB):
            pass
    lender.buffers.idle_bytes("cpu")
    lender.pass_time(KEEP_NS)
    assert lender.rows == []
