"""The sample hosts end to end, as processes of their own: what a newcomer starts works, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.csharp.host import REPOSITORY, gone
from tests.e2e.csharp.web_host import Web, command, web_host
from tests.rigs.dotnet.toolchain import Toolchain

CONSOLE = "csharp_host/samples/ConsoleHost/ConsoleHost.csproj"
WEB = "csharp_host/samples/WebApi/WebApi.csproj"
MIB = 2**20


def test_the_console_host(toolchain: Toolchain) -> None:
    """It walks through the service and ends well."""
    done = subprocess.run(
        [*command(toolchain, CONSOLE), sys.executable, str(REPOSITORY)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "copied 64 MiB as alloc-2-" in done.stdout
    assert "refused: sim:0 has 201326592 bytes of headroom; 1099511627776 asked for" in done.stdout
    assert "cleared 2 allocations, 128 MiB" in done.stdout
    assert gone(int(re.search(r"process (\d+)", done.stdout)[1]))


def test_the_console_host_without_a_worker(toolchain: Toolchain, tmp_path: Path) -> None:
    """What went wrong is on the screen: the interpreter's own words."""
    bare = tmp_path / "python"  # without what is installed, the worker may be too
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    done = subprocess.run(
        [*command(toolchain, CONSOLE), str(bare), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "worker_start_failed" in done.stderr
    assert "No module named memory_worker" in done.stderr


@pytest.fixture
def web(toolchain: Toolchain) -> Iterator[Web]:
    """Start the web host."""
    with web_host(toolchain, WEB) as host:
        yield host


def test_the_service_over_http(web: Web) -> None:
    """Each operation answers as JSON; each error as problem details with a status that fits."""
    status, answer = web.ask("GET", "/api/memory/status")
    assert (status, [one["deviceId"] for one in answer["devices"]]) == (200, ["cpu", "sim:0"])
    assert answer["pressureCategory"] == "low"
    status, answer = web.ask(
        "POST", "/api/memory/allocate", {"sizeBytes": MIB, "deviceId": "sim:0", "owner": "web"}
    )
    assert (status, answer["success"], answer["availableBytes"]) == (201, True, 63 * MIB)
    held = answer["allocationId"]
    status, answer = web.ask("GET", "/api/memory/status/sim:0")
    assert (status, answer["device"]["allocatedBytes"]) == (200, MIB)
    status, answer = web.ask("GET", "/api/memory/usage?deviceId=sim:0")
    assert (status, answer["devices"][0]["groups"][0]["key"]) == (200, "web")
    status, answer = web.ask("GET", "/api/memory/allocations?owner=web")
    assert [one["allocationId"] for one in answer["allocations"]] == [held]
    status, answer = web.ask(
        "POST", "/api/memory/copy", {"sourceAllocationId": held, "destinationDeviceId": "cpu", "verify": True}
    )
    assert (status, answer["state"], answer["success"]) == (200, "completed", True)
    for path in (
        "pressure",
        "models",
        "analytics",
        "optimization",
        f"allocation/{held}",
        f"transfer/{answer['transferId']}",
    ):
        assert web.ask("GET", f"/api/memory/{path}")[0] == 200, path
    for path in ("optimize", "defragment", "clear"):
        assert web.ask("POST", f"/api/memory/{path}", {})[0] == 200, path
    assert web.ask("DELETE", f"/api/memory/allocation/{held}")[0] == 200
    assert problem(web, "DELETE", f"/api/memory/allocation/{held}") == (404, "allocation_not_found", False)
    assert problem(web, "GET", "/api/memory/status/cuda:9") == (404, "device_not_found", False)
    too_much = {"sizeBytes": 65 * MIB, "deviceId": "sim:0"}
    assert problem(web, "POST", "/api/memory/allocate", too_much) == (507, "out_of_memory", False)
    assert problem(web, "POST", "/api/memory/allocate", {"sizeBytes": 0}) == (400, "invalid_request", False)


def problem(web: Web, method: str, path: str, body: Any = None) -> tuple[int, str, bool]:
    """Return status, code and whether to retry of an answer that must be problem details."""
    status, answer = web.ask(method, path, body)
    assert (answer["status"], answer["executed"]) == (status, "no")
    return status, answer["code"], answer["retryable"]


def test_a_worker_that_dies_is_replaced_and_logged(web: Web) -> None:
    """The host goes on: the death is an error in its log, the next request is answered, health is good again."""
    assert web.ask("GET", "/health") == (200, "Healthy")
    web.ask("POST", "/api/memory/allocate", {"sizeBytes": MIB})
    dead = web.worker()
    os.kill(dead, signal.SIGKILL)
    assert web.log_until("allocations were lost")
    assert web.ask("GET", "/api/memory/status")[0] == 200
    assert web.worker() != dead
    assert web.ask("GET", "/health") == (200, "Healthy")
    assert web.log_until("was replaced by process")


def test_the_host_ends_its_worker(web: Web) -> None:
    """On SIGTERM both end, the host with 0."""
    worker = web.worker()
    web.process.terminate()
    assert web.process.wait(30) == 0
    assert gone(worker)


def test_no_orphan_where_the_host_is_killed(web: Web) -> None:
    """A host that is killed takes its worker along."""
    worker = web.worker()
    web.process.kill()
    web.process.wait(30)
    assert gone(worker)


def test_an_option_that_makes_no_sense(toolchain: Toolchain) -> None:
    """The host does not start, and says which option it is."""
    done = subprocess.run(
        [*command(toolchain, WEB), "--urls=http://127.0.0.1:0", "--MemoryWorker:StartTimeout=-00:00:01"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "StartTimeout" in done.stdout + done.stderr
