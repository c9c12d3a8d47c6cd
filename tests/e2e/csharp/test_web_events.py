"""The web sample's stream of events: what comes, how often, and a reader that leaves."""

import json
import socket
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.e2e.csharp.host import REPOSITORY
from tests.e2e.csharp.test_web_api import PROJECT
from tests.e2e.csharp.web_host import Web, web_host
from tests.rigs.dotnet.toolchain import Toolchain


@pytest.fixture(scope="module")
def web(toolchain: Toolchain) -> Iterator[Web]:
    """Start the host."""
    with web_host(toolchain, PROJECT) as host:
        yield host


def test_a_reader_that_leaves_is_no_fault(toolchain: Toolchain) -> None:
    """However it goes, between events or while there are some, nothing is logged, and the host is rid of it."""
    with web_host(toolchain, PROJECT) as web:
        host, _, port = web.address.removeprefix("http://").partition(":")
        for gone in range(20):
            with socket.create_connection((host, int(port)), timeout=30) as reader:
                reader.sendall(f"GET /api/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                read = b""
                while b": events follow" not in read:
                    read += reader.recv(4096)
                if gone % 2:  # no word of goodbye
                    reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    web.ask(
                        "POST", "/api/memory/allocate", {"size_bytes": 1, "device_id": "cpu", "lease_ms": 1}
                    )
        assert web.ask("GET", "/api/memory/status?device_id=cuda:9")[0] == 404
        log = web.log_until("was answered 404")
    assert "fail:" not in log
    assert "nhandled" not in log


def test_events_are_a_stream(web: Web) -> None:
    """Those asked for, by name, each on one line of data; one that does not exist is refused before anything is sent."""
    refused = web.answer("GET", "/api/events?event=memory.nonsense")
    assert (refused.status, refused.body["code"]) == (400, "invalid_request")
    ended = threading.Event()

    def expire() -> None:
        while not ended.wait(0.05):
            web.ask("POST", "/api/memory/allocate", {"size_bytes": 1, "device_id": "cpu", "lease_ms": 1})

    with urllib.request.urlopen(
        f"{web.address}/api/events?event=memory.allocation_expired", timeout=60
    ) as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        assert stream.readline() == b": events follow\n"
        expiring = threading.Thread(target=expire)
        expiring.start()
        try:
            while not (line := stream.readline()).startswith(b"id:"):
                pass
            event, data = stream.readline(), stream.readline()
        finally:
            ended.set()
            expiring.join()
    assert (line, event) == (b"id: 1\n", b"event: memory.allocation_expired\n")
    told = json.loads(data.removeprefix(b"data: "))
    schema: Any = json.loads((REPOSITORY / "schemas" / "AllocationExpiredData.json").read_text())
    Draft202012Validator(schema).validate(told)
    assert told["freed_bytes"] == 1


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("event=memory.figures&figures_every_ms=soon", "a whole number from 1000 to 86400000"),
        ("event=memory.figures&figures_every_ms=999", "is '999'"),
        ("event=memory.figures&figures_every_ms=86400001", "from 1000 to 86400000"),
        ("event=memory.figures&figures_every_ms=1000&figures_every_ms=2000", "is '1000,2000'"),
        ("figures_every_ms=1000", "add event=memory.figures"),
        ("event=memory.pressure_changed&figures_every_ms=1000", "add event=memory.figures"),
    ],
)
def test_a_pace_of_figures_that_is_none(web: Web, query: str, says: str) -> None:
    """It is refused before the stream begins, with what would do."""
    with (
        pytest.raises(urllib.error.HTTPError) as refused,
        urllib.request.urlopen(f"{web.address}/api/events?{query}", timeout=15),
    ):
        pass  # A stream would not end by itself.
    with refused.value as answer:
        told = json.load(answer)
    assert (answer.code, told["code"]) == (400, "invalid_request")
    assert says in told["detail"]


def test_figures_come_as_often_as_asked(web: Web) -> None:
    """Twice before the comment that comes every 15 s, of which the default's 30 s would bring one."""
    with urllib.request.urlopen(
        f"{web.address}/api/events?event=memory.figures&figures_every_ms=1000", timeout=15
    ) as stream:
        told = []
        while len(told) < 2:
            line = stream.readline()
            assert line != b":\n"
            if line.startswith(b"data: "):
                told.append(json.loads(line.removeprefix(b"data: ")))
    schema: Any = json.loads((REPOSITORY / "schemas" / "FiguresData.json").read_text())
    for one in told:
        Draft202012Validator(schema).validate(one)
        assert [device["device_id"] for device in one["devices"]] == ["cpu", "sim:0"]
