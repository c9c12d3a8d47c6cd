"""The socket of a live view: the owner's alone, questions only, and no client can do the worker any harm."""

import contextlib
import json
import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import MIB, Worker, worker

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Python on Windows has no local sockets")


class Client:
    """The other end."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("rb")

    def ask(self, action: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask; events that come meanwhile are kept out of the answer."""
        self.socket.sendall(
            json.dumps({"request_id": "x", "action": action, "data": data or {}}).encode() + b"\n"
        )
        while "event" in (reply := self.read()):
            pass
        return reply

    def read(self) -> dict[str, Any]:
        """Read a line; EOFError where it was closed."""
        line = self.lines.readline()
        if not line:
            raise EOFError
        return dict(json.loads(line))

    def close(self) -> None:
        """Hang up."""
        self.lines.close()
        self.socket.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the socket is."""
    return tmp_path / "w.sock"


@pytest.fixture
def served(path: Path) -> Iterator[Worker]:
    """Return a worker that listens there."""
    with worker("--monitor-socket", str(path), "--simulated-device", "64MiB") as started:
        started.call("worker.ping")  # it listens before it answers
        yield started


@contextlib.contextmanager
def client(path: Path) -> Iterator[Client]:
    """Connect."""
    one = Client(path)
    try:
        yield one
    finally:
        one.close()


def test_it_is_the_owners_alone(served: Worker, path: Path) -> None:
    """Mode 0600, and in the default place a folder that only the owner may enter."""
    found = path.stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_uid == os.getuid()


def test_the_default_place(tmp_path: Path) -> None:
    """By process id in the runtime folder, and gone with the worker; an open folder is refused."""
    folder = tmp_path / "memory-worker"
    with worker("--monitor-socket", environment={"XDG_RUNTIME_DIR": str(tmp_path)}) as started:
        started.call("worker.ping")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with client(folder / f"{started.pid}.sock") as one:
            assert one.ask("worker.hello")["data"]["pid"] == started.pid
        started.close_input()
        assert started.exit_code() == 0
    assert list(folder.iterdir()) == []
    folder.chmod(0o755)
    with Worker("--monitor-socket", environment={"XDG_RUNTIME_DIR": str(tmp_path)}) as refused:
        assert refused.exit_code() == 2


def test_questions_are_answered_as_on_the_stream(served: Worker, path: Path) -> None:
    """The same figures; the worker's record of requests is not of those who only look."""
    served.call("memory.allocate", {"size_bytes": MIB, "device_id": "sim:0", "owner": "kv"})
    with client(path) as one:
        usage = one.ask("memory.get_usage", {"device_id": "sim:0"})["data"]
        assert usage == served.call("memory.get_usage", {"device_id": "sim:0"})
        assert "memory.get_usage" in {
            row["action"] for row in one.ask("memory.get_analytics")["data"]["actions"]
        }
        counts = {row["action"]: row["count"] for row in one.ask("memory.get_analytics")["data"]["actions"]}
        assert "memory.get_analytics" not in counts
        assert one.ask("worker.ping")["data"]["uptime_ms"] >= 0


@pytest.mark.parametrize(
    ("action", "data"),
    [
        ("memory.allocate", {"size_bytes": 1}),
        ("memory.clear", {}),
        ("memory.set_limits", {"device_id": "cpu"}),
        ("worker.shutdown", {}),
        ("worker.cancel", {"request_id": "r1"}),
        ("worker.hello", {"host_pid": 1}),
        ("memory.nothing", {}),
    ],
)
def test_nothing_can_be_changed(served: Worker, path: Path, action: str, data: dict[str, Any]) -> None:
    """What is no question is refused, and the connection goes on."""
    with client(path) as one:
        assert one.ask(action, data)["error"]["code"] == "unsupported"
        assert one.ask("worker.ping")["success"]
    assert served.call("memory.get_status")["devices"][0]["allocated_bytes"] == 0


def test_lines_that_are_none(served: Worker, path: Path) -> None:
    """Each gets its error, also one that is far too long."""
    with client(path) as one:
        for sent, code in ((b"nothing\n", "invalid_json"), (b"x" * 100_000 + b"\n", "frame_too_large")):
            one.socket.sendall(sent)
            assert one.read()["error"]["code"] == code
        assert one.ask("memory.get_status", {"device_id": "cuda:9"})["error"]["code"] == "device_not_found"
    assert served.call("worker.ping")


@pytest.mark.parametrize("end", [b"\n", b""])
def test_one_that_asks_once_and_ends_its_input_is_answered(served: Worker, path: Path, end: bytes) -> None:
    """As a line piped through ``socat`` or ``nc`` is: no answer is lost, a last line without its end counts, and then it hangs up."""
    for _ in range(10):
        with client(path) as one:
            one.socket.sendall(b'{"request_id": "1", "action": "memory.get_metrics"}' + end)
            one.socket.shutdown(socket.SHUT_WR)
            assert one.read()["success"]
            assert one.lines.read() == b""


def test_figures_come_as_often_as_a_view_asks(served: Worker, path: Path) -> None:
    """At once, after the reply; and no more once it has gone."""
    asked = {"events": ["memory.figures"], "figures_every_ms": 86_400_000}
    with client(path) as one:
        assert one.ask("worker.subscribe", asked)["data"] == asked
        told = one.read()
        assert (told["event"], told["data"]["skipped"]) == ("memory.figures", 0)
    assert not served.events("memory.figures")


def test_events_have_no_gaps(served: Worker, path: Path) -> None:
    """A view subscribes for itself; the host gets none of it."""
    with client(path) as one:
        one.ask("worker.subscribe", {"events": ["memory.allocation_expired"]})
        for _ in range(5):
            served.call("memory.allocate", {"size_bytes": MIB, "device_id": "sim:0", "lease_ms": 1})
        assert [one.read()["sequence"] for _ in range(5)] == [1, 2, 3, 4, 5]
    assert not served.events("memory.allocation_expired")


def test_one_that_never_reads_does_no_harm(served: Worker, path: Path) -> None:
    """It asks and asks for the most there is: the worker goes on at its pace, and its memory stays."""
    before = served.call("memory.get_status", {"refresh": True})["host"]["process_rss_bytes"]
    with contextlib.ExitStack() as stack:
        question = b'{"request_id":"x","action":"memory.get_analytics"}\n' * 200
        for _ in range(8):
            one = stack.enter_context(client(path))
            one.socket.setblocking(False)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                while True:
                    one.socket.sendall(question)
        for _ in range(300):
            served.call("worker.ping")
        after = served.call("memory.get_status", {"refresh": True})["host"]["process_rss_bytes"]
        assert after - before < 100 * MIB


def test_more_than_a_few_are_not_let_in(served: Worker, path: Path) -> None:
    """Eight may look; the ninth finds the door closed, until one has gone."""
    with contextlib.ExitStack() as stack:
        ones = [stack.enter_context(client(path)) for _ in range(8)]
        assert all(one.ask("worker.ping")["success"] for one in ones)
        with pytest.raises((EOFError, ConnectionError)):
            stack.enter_context(client(path)).ask("worker.ping")
    assert served.call("worker.ping")


def test_what_a_killed_worker_left_is_no_hindrance_and_a_living_one_is(path: Path) -> None:
    """The place of the dead is taken over; that of the living is not."""
    with worker("--monitor-socket", str(path)) as first:
        first.call("worker.ping")
        first.process.kill()
        first.process.wait()
    assert path.is_socket()
    with worker("--monitor-socket", str(path)) as second:
        second.call("worker.ping")
        with Worker("--monitor-socket", str(path)) as third:
            assert third.exit_code() == 2
        with client(path) as one:
            assert one.ask("worker.hello")["data"]["pid"] == second.pid
