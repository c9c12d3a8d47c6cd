"""Threads that help: nothing that fails in one of them ends it, and what can't be helped is told or counted."""

import errno
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.e2e.process import eventually
from worker.core.clock import SystemClock
from worker.core.records import Decision, DecisionKind
from worker.export import monitor_socket
from worker.export.decision_log import DecisionLog
from worker.export.metrics_file import MetricsFile
from worker.export.monitor_socket import MonitorSocket

USE = Decision(DecisionKind.USE, "m", "cpu", 1, 1000, 20, 5000, None)


def failing(errors: list[BaseException], call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a call that fails by each of these, and then does what it did."""

    def called(*arguments: Any, **named: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return call(*arguments, **named)

    return called


def test_a_record_goes_on_after_short_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What found no memory is counted as dropped, whether it was being written or taken over; the rest is written."""
    log = DecisionLog(tmp_path / "r")
    monkeypatch.setattr(log, "_line", failing([MemoryError()], log._line))
    log.record(USE)
    log.note({"first": 1})
    log.note({"second": 2})
    log.close()
    lines = [orjson.loads(line) for line in (tmp_path / "r").read_bytes().splitlines()]
    assert {"dropped": 1} in lines and {"second": 2} in lines


def test_a_record_is_ended_by_a_bug_and_the_worker_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anything else that fails there ends the record alone: more is taken over and dropped, and closing it is no wait."""
    log = DecisionLog(tmp_path / "r")
    monkeypatch.setattr(log, "_write", failing([ValueError("a bug")], log._write))
    for _ in range(20_000):
        log.record(USE)
    log.close()
    assert log._over.is_set() and log._queue.qsize() == 0


@pytest.mark.parametrize("error", [MemoryError(), ValueError("a bug"), OSError(errno.ENOSPC, "full")])
def test_figures_are_written_again_after_a_failure(tmp_path: Path, error: BaseException) -> None:
    """Whatever kept the metrics file from being written once, it is written the next time."""
    texts = iter([*"ab", "c" * 10, *["d\n"] * 100_000])
    ready = threading.Event()

    def text() -> str:
        made = next(texts)
        if made == "b":
            ready.set()
            raise error
        return made

    file = MetricsFile(tmp_path / "m", text, 0.001)
    file.start()
    eventually(lambda: ready.is_set() and (tmp_path / "m").read_text() == "d\n", "written again")
    file.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such sockets")
def test_live_views_are_let_in_after_a_shortage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors, memory or threads that were short let the next client in, and so does one that went; those who came meanwhile are let go."""
    monkeypatch.setattr(monitor_socket, "_SHORT_SECONDS", 0.0)
    tmp_path.chmod(0o700)
    clock, path = SystemClock(), tmp_path / "s"
    view: MonitorSocket[Any] = MonitorSocket(path, clock, lambda _write: None)
    short: list[BaseException] = [
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)), ConnectionAbortedError(), MemoryError(),
    ]  # fmt: skip
    monkeypatch.setattr(monitor_socket, "_is_owner", failing(short, monitor_socket._is_owner))
    view.start(lambda _client: lambda *_: None)
    for left in (2, 1, 0):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            eventually(lambda left=left: len(short) <= left, "it was seen")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        eventually(lambda: view._clients, "a client is let in")
    view.close()
