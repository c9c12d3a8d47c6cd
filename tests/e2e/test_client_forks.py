"""The Python client in a process that was forked, as by multiprocessing, data loaders and pre-forking servers: the worker is its parent's."""

import subprocess
import sys

import pytest

from tests.e2e.process import PATIENCE_SECONDS, ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows forks no process")

SCRIPT = """
import asyncio, logging, os, sys
from worker.client import WorkerExitedError, connect, connect_async

logging.basicConfig(level=logging.INFO, stream=sys.stdout)

def refused(call):
    try:
        call()
    except WorkerExitedError as error:
        assert error.executed == "no", error.executed
        assert "connect in this one, too" in str(error), error
    else:
        raise AssertionError(call)

async def both():
    async with connect_async() as there:
        await there.ping()
        if not os.fork():
            try:
                await there.ping()
            except WorkerExitedError as error:
                os._exit(0 if error.executed == "no" else 3)
            os._exit(4)
        assert os.wait()[1] == 0
        await there.ping()

memory = connect("--log-level", "info")
forked, go_on = os.pipe()
child = os.fork()
if not child:
    os.close(go_on)
    refused(memory.ping)
    refused(memory.events)
    refused(lambda: memory.hello)
    with connect() as own:
        own.ping()
    os.read(forked, 1)  # until the parent has closed its client
    sys.exit(0)  # which closes this process's client too
os.close(forked)
memory.ping()
memory.close()
os.close(go_on)
assert os.waitpid(child, 0)[1] == 0
asyncio.run(both())
"""


def test_a_forked_process_has_no_worker() -> None:
    """Its calls are refused and not sent, its end ends nothing, and it does not keep the worker from seeing the end of its input."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=3 * PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert "ending, reason end of input" in done.stdout
    assert "SIGTERM" not in done.stdout
