"""The sample hosts end to end, as processes of their own: what a newcomer starts works, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


def healthy(web: Web) -> bool:
    """Whether every part is."""
    status, answer = web.ask("GET", "/health")
    return status == 200 and {one["status"] for one in answer["parts"].values()} == {"healthy"}


def test_a_worker_that_dies_is_replaced_and_logged(web: Web) -> None:
    """The host goes on: the death is an error in its log, the next request is answered, health is good again."""
    assert healthy(web)
    web.ask("POST", "/api/memory/allocate", {"size_bytes": MIB})
    dead = web.worker()
    os.kill(dead, signal.SIGKILL)
    assert web.log_until("allocations were lost")
    assert web.ask("GET", "/api/memory/status")[0] == 200
    assert web.worker() != dead
    assert healthy(web)
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
