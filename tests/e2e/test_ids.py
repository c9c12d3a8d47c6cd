"""An id from before a worker's restart names nothing after it, whoever asks."""

import os
import signal
import threading
from typing import Any

import pytest

from tests.e2e.process import PATIENCE_SECONDS, Worker, worker
from worker.client import connect
from worker.core.errors import AllocationNotFoundError

ONE = {"size_bytes": 4096, "device_id": "cpu"}


def live(up: Worker) -> list[str]:
    return [row["allocation_id"] for row in up.call("memory.get_allocations")["allocations"]]


def test_what_another_worker_made_is_refused() -> None:
    """Freeing, renewing, copying, following and taking up with another process's ids changes nothing, and says why."""
    with worker() as first, worker() as second:
        old = first.call("memory.allocate", ONE)["allocation_id"]
        copy = {"source_allocation_id": old, "destination_device_id": "cpu"}
        transfer = first.call("memory.transfer", copy)["transfer_id"]
        ways = {"candidates": [{"name": "one", "required_bytes": 4096, "device_id": "cpu"}]}
        plan = first.call("memory.plan", ways)["plan_id"]
        mine = second.call("memory.allocate", ONE)["allocation_id"]
        second.call("memory.transfer", {**copy, "source_allocation_id": mine})
        second.call("memory.plan", ways)
        before = live(second)
        assert not {old, transfer, plan} & {*before, mine}
        asked: list[tuple[str, dict[str, Any], str]] = [
            ("memory.deallocate", {"allocation_id": old, "force": True}, "allocation_not_found"),
            ("memory.renew_lease", {"allocation_id": old, "lease_ms": 1000}, "allocation_not_found"),
            ("memory.transfer", copy, "allocation_not_found"),
            ("memory.get_transfer", {"transfer_id": transfer}, "invalid_request"),
            ("memory.allocate", {"size_bytes": 4096, "plan_id": plan}, "plan_stale"),
        ]
        for action, data, code in asked:
            error = second.refused(action, data)
            assert error["code"] == code
            if code == "allocation_not_found":
                assert error["details"]["reason"] == "another_worker_made_it"
                assert f"{old} is not live: another worker made it" in error["message"]
        assert live(second) == before


def test_who_counts_names_this_worker() -> None:
    """A conversation that is piped as a whole knows its ids beforehand."""
    with worker() as up:
        made = up.call("memory.allocate", ONE)["allocation_id"]
        assert made.startswith("alloc-1-")
        assert up.call("memory.deallocate", {"allocation_id": "alloc-1"})["allocation_id"] == made
        again = up.refused("memory.deallocate", {"allocation_id": "alloc-1"})
        assert again["details"]["reason"] == "already_freed"


@pytest.mark.skipif(os.name == "nt", reason="a signal as on POSIX")
def test_the_python_client_after_a_restart() -> None:
    """Its old id frees nothing of another owner's."""
    died = threading.Event()
    with connect(on_exit=lambda _: died.set()) as memory:
        old = memory.allocate(size_bytes=4096, device_id="cpu", owner="me").allocation_id
        os.kill(memory.hello.pid, signal.SIGKILL)
        assert died.wait(PATIENCE_SECONDS)
        mine = memory.allocate(size_bytes=4096, device_id="cpu", owner="another").allocation_id
        with pytest.raises(AllocationNotFoundError, match="another worker made it"):
            memory.deallocate(allocation_id=old, force=True)
        assert [row.allocation_id for row in memory.get_allocations().allocations] == [mine]
