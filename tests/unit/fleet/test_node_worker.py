"""A node's worker, which is a real one."""

import asyncio
import os
from contextlib import suppress
from threading import Thread
from typing import Any

import psutil
import pytest

from tests.e2e.process import PATIENCE_SECONDS, eventually
from worker.client.calls import CallOptions
from worker.client.connection import Connection
from worker.core.errors import DeadlineExceededError
from worker.fleet.node_worker import NodeWorker


def fill(connection: Connection) -> None:
    """Write to a worker that reads nothing until its pipe takes no more."""
    pipe = connection._process._process.stdin
    assert pipe is not None
    os.set_blocking(pipe.fileno(), False)
    with suppress(BlockingIOError):
        while os.write(pipe.fileno(), bytes(2**16)):
            pass
    os.set_blocking(pipe.fileno(), True)


def test_a_worker_that_dies_is_started_again_and_how_long_there_was_none_is_known() -> None:
    """From its end until the next one answers, however late that is noticed."""
    node = NodeWorker(("--simulated-device", "1MiB"), lambda: None)
    try:
        connection, first = node.connection, node.incarnation
        assert connection is not None
        assert node.down_ms == 0
        psutil.Process(connection.pid).kill()
        eventually(lambda: node.connection is None, "the worker's end")
        assert node.restart()
        assert node.incarnation > first
        assert node.down_ms > 20  # no Python starts faster
    finally:
        node.close()


def test_whoever_asks_whether_a_worker_is_there_waits_until_it_answers_or_is_gone() -> None:
    """Where there is none just now that is known: requests are refused for it."""
    node = NodeWorker((), lambda: None)
    try:
        assert node.connection is not None
        asyncio.run(node.ping())
        worker = psutil.Process(node.connection.pid)
        worker.suspend()
        fill(node.connection)
        with pytest.raises(DeadlineExceededError, match="reads nothing"):
            node.ask("worker.ping", deadline_ms=1)
        asked = Thread(target=lambda: asyncio.run(node.ping()))
        asked.start()
        worker.kill()
        asked.join(PATIENCE_SECONDS)
        assert not asked.is_alive()
        eventually(lambda: node.connection is None, "the worker's end")
        asyncio.run(node.ping())
    finally:
        node.close()


def test_what_can_not_be_freed_just_now_is_freed_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that is gone frees nothing itself: what its node forgets of it stays as long as the worker."""
    node = NodeWorker(("--simulated-device", "1MiB"), lambda: None)

    def allocate(device_id: str) -> str:
        asked = {"size_bytes": 4096, "device_id": device_id}
        made, _ = asyncio.run(node.call(device_id, "memory.allocate", asked, CallOptions(), "gone"))
        return str(made["data"]["allocation_id"])

    def busy(*_: Any) -> None:
        raise DeadlineExceededError("the time for it is over")

    try:
        freed, *_ = (allocate(each) for each in ("cpu", "sim:0", "cpu"))
        node.ask("memory.deallocate", {"allocation_id": freed})  # it is not there: that is final
        with monkeypatch.context() as patched:
            patched.setattr(node, "ask", busy)
            node.release("gone", leased_too=False)
        assert node.possessions.gateways() == {"gone"}
        node.release("gone", leased_too=False, until=0.0)
        node.release("gone", leased_too=False, until=0.0)
        assert len(node.ask("memory.get_allocations")["allocations"]) == 1
        node.release("gone", leased_too=False)
        assert not node.possessions.gateways()
        assert node.ask("memory.get_allocations")["allocations"] == []
    finally:
        node.close()
