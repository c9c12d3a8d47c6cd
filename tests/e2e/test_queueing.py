"""Work on memory that waits: deadlines, overload, order, and answers that are given again."""

import pytest

from tests.e2e.process import MIB, worker
from tests.e2e.simulated import CRAWLING, figures, place


def test_deadline_of_running_work() -> None:
    """Work that passes its deadline is rolled back."""
    with worker("--simulated-device", CRAWLING) as started:
        source = place(started, MIB)
        before = figures(started)
        transfer = {"source_allocation_id": source, "destination_device_id": "sim:0"}
        reply = started.ask("memory.transfer", transfer, meta={"deadline_ms": 50})
        assert reply["error"]["code"] == "deadline_exceeded"
        assert figures(started) == before


def test_deadline_of_queued_work() -> None:
    """Work whose deadline passes while it waits is shed then, not when its turn comes."""
    with worker("--simulated-device", CRAWLING) as started:
        source = place(started, MIB)
        transfer = {"source_allocation_id": source, "destination_device_id": "sim:0"}
        running = started.send("memory.transfer", transfer)
        queued = started.send("memory.deallocate", {"allocation_id": source}, meta={"deadline_ms": 50})
        assert started.reply(queued)["error"]["code"] == "deadline_exceeded"
        assert started.replies(running) == []
        started.call("worker.cancel", {"request_id": running})
        started.reply(running)
        assert started.call("memory.deallocate", {"allocation_id": source})["freed_bytes"] == MIB


@pytest.mark.parametrize("deadline_ms", [0, 2**53])
def test_extreme_deadlines(deadline_ms: int) -> None:
    """A deadline of now is passed; one in 285,000 years is as good as none."""
    with worker("--simulated-device", "64MiB,stall_copy=1") as started:
        source = place(started, 4096)
        transfer = {"source_allocation_id": source, "destination_device_id": "sim:0"}
        request = started.send("memory.transfer", transfer, meta={"deadline_ms": deadline_ms})
        if deadline_ms:
            started.call("worker.cancel", {"request_id": request})
        code = "cancelled" if deadline_ms else "deadline_exceeded"
        assert started.reply(request)["error"]["code"] == code


def test_reads_never_wait() -> None:
    """Questions are answered at once while long work holds every device and every thread."""
    with worker("--simulated-device", CRAWLING) as started:
        source = place(started, MIB)
        transfer = {"source_allocation_id": source, "destination_device_id": "sim:0"}
        running = [started.send("memory.transfer", transfer) for _ in range(8)]
        queued = started.send("memory.clear", {"clear_type": "all"})
        for question in ("get_status", "get_usage", "get_allocations", "get_pressure", "get_analytics"):
            started.call(f"memory.{question}")
        started.call("worker.ping")
        assert not any(started.replies(request) for request in [*running, queued])


def test_overloaded() -> None:
    """More in flight than max_inflight is refused with when to come back; control actions are not."""
    with worker("--simulated-device", CRAWLING, "--max-inflight", "2") as started:
        source = place(started, MIB)
        transfer = {"source_allocation_id": source, "destination_device_id": "sim:0"}
        running = [started.send("memory.transfer", transfer) for _ in range(2)]
        error = started.refused("memory.transfer", transfer)
        assert error["code"] == "overloaded"
        assert error["retryable"]
        assert error["details"]["retry_after_ms"] > 0
        started.call("worker.ping")
        for request in running:
            assert started.call("worker.cancel", {"request_id": request}) == {"found": True}
            assert started.reply(request)["error"]["code"] == "cancelled"
        assert started.call("memory.get_usage")


def test_replay() -> None:
    """The same id and body get the same answer again and nothing is done twice; another body is refused."""
    with worker() as started:
        data = {"size_bytes": 4096, "device_id": "cpu"}
        first = started.reply(started.send("memory.allocate", data, request_id="once"))
        started.send("memory.allocate", dict(reversed(data.items())), request_id="once")
        assert started.reply("once", nth=1) == {**first, "replayed": True}
        started.send("memory.allocate", {**data, "size_bytes": 1}, request_id="once")
        assert started.reply("once", nth=2)["error"]["code"] == "duplicate_request_id"
        assert len(started.call("memory.get_allocations")["allocations"]) == 1


def test_replay_while_the_first_still_runs() -> None:
    """A repetition of work that still runs waits for that work's answer."""
    with worker("--simulated-device", "64MiB,stall_copy=1") as started:
        source = place(started, 4096)
        transfer = {"source_allocation_id": source, "destination_device_id": "sim:0"}
        for _ in range(3):
            started.send("memory.transfer", transfer, request_id="again")
        started.send("memory.transfer", {**transfer, "verify": True}, request_id="again")
        assert started.reply("again")["error"]["code"] == "duplicate_request_id"
        started.call("worker.cancel", {"request_id": "again"})
        replies = [started.reply("again", nth=nth) for nth in (1, 2, 3)]
        assert [reply["error"]["code"] for reply in replies] == ["cancelled"] * 3
        assert [reply.get("replayed") for reply in replies] == [None, True, True]
        started.call("worker.ping")
        assert len(started.replies("again")) == 4


def test_work_on_one_allocation_is_in_order() -> None:
    """Requests that name the same allocation take effect as they came, sent all at once."""
    with worker("--simulated-device", f"64MiB,bandwidth_bytes_per_second={64 * MIB}") as started:
        source = place(started, 8 * MIB)
        copy = {"source_allocation_id": source, "destination_device_id": "sim:0"}
        copied = started.send("memory.transfer", copy)
        freed = started.send("memory.deallocate", {"allocation_id": source})
        late = started.send("memory.transfer", copy)
        assert started.reply(copied)["success"]
        assert started.reply(freed)["success"]
        assert started.reply(late)["error"]["code"] == "allocation_not_found"


def test_replay_of_what_was_cancelled_in_the_queue() -> None:
    """An answer is an answer: a request that was cancelled before it ran is not run when it is repeated."""
    with worker("--simulated-device", CRAWLING) as started:
        source = place(started, MIB)
        transfer = {"source_allocation_id": source, "destination_device_id": "sim:0"}
        running = started.send("memory.transfer", transfer)
        started.send("memory.deallocate", {"allocation_id": source}, request_id="free")
        started.call("worker.cancel", {"request_id": "free"})
        first = started.reply("free")
        assert first["error"]["code"] == "cancelled"
        started.send("memory.deallocate", {"allocation_id": source}, request_id="free")
        started.call("worker.cancel", {"request_id": running})
        assert started.reply("free", nth=1) == {**first, "replayed": True}
