"""What a host has on nodes: told when it is lost, and named by its number where it counts instead of reading."""

from threading import Thread
from types import SimpleNamespace

import pytest

from worker.core.cancellation import CancelToken
from worker.core.errors import CancelledError
from worker.fleet import holdings
from worker.fleet.holdings import Holdings, is_by_count
from worker.fleet.possessions import Possessions


def test_what_went_with_a_device_is_named_once() -> None:
    """What a worker has that was started since is not lost; what is lost is refused as such."""
    held = Holdings()
    held.add("n/alloc-1", "n/cpu", "1")
    held.add("n/alloc-2", "n/cpu", "2")
    held.add("m/alloc-1", "m/cpu", "1")
    assert held.lose("n/cpu", "it died", before="2") == ("n/alloc-1",)
    assert held.lose("n/cpu", "it died", before="2") == ()
    assert held.why_lost("n/alloc-1") == "it died"
    assert held.why_lost("n/alloc-2") is None
    assert held.on_node("m") == {"m/alloc-1": "m/cpu"}


def test_a_number_means_what_was_made_by_it() -> None:
    """In the order of requests; one that failed means nothing, and neither does one that was never given."""
    held = Holdings()
    first, second = held.number("alloc"), held.number("alloc")
    held.name("alloc", second, "n/alloc-1-ab")
    held.name("alloc", first, None)
    assert held.meant("alloc-2") == "n/alloc-1-ab"
    assert held.meant("alloc-1") is None
    assert held.meant("alloc-3") is None
    assert not is_by_count("n/alloc-1-ab")


def test_who_reads_waits_a_moment_for_what_is_in_the_making(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the order of requests is kept; where its node hangs, or is being started, the others go on."""
    now = [1000.0]
    monkeypatch.setattr(holdings, "time", SimpleNamespace(monotonic=lambda: now[0]))
    held = Holdings()
    first = held.number("alloc")
    now[0] += 60
    assert not held.is_made(["alloc-1"])
    assert held.is_made(["alloc-2"])
    held.number("alloc")
    reader = Thread(target=lambda: held.name("alloc", first + 1, "n/alloc-2-ab"))
    reader.start()
    assert held.is_made(["alloc-2"])
    reader.join()
    cancelled = CancelToken(lambda: 0)
    cancelled.cancel()
    with pytest.raises(CancelledError):
        held.await_made(["alloc-1"], cancelled)
    held.name("alloc", first, None)
    held.await_made(["alloc-1"], CancelToken(lambda: 0))


def test_a_gateway_that_is_gone_leaves_what_is_leased() -> None:
    """Unless it said itself that it is done; what another gateway has stays."""
    had = Possessions()
    had.note("g", "memory.allocate", {}, {"allocation_id": "a"})
    had.note("g", "memory.allocate", {"lease_ms": 5}, {"allocation_id": "b"})
    had.note("h", "memory.allocate", {}, {"allocation_id": "c"})
    had.note("g", "memory.register_consumer", {}, {"consumer_id": "r"})
    moved = {"source_allocation_id": "b", "destination_allocation_id": "d"}
    had.note("g", "memory.transfer", {"transfer_type": "move"}, moved)
    assert had.of("g", leased_too=False) == (("a",), ("r",))
    assert had.of("g", leased_too=True) == (("a", "d"), ("r",))
    had.note("g", "memory.deallocate", {}, {"allocation_id": "a"})
    had.note("g", "memory.unregister_consumer", {}, {"consumer_id": "r"})
    assert had.any_leased()
    had.note("g", "memory.deallocate", {}, {"allocation_id": "d"})
    assert had.gateways() == frozenset({"h"})
