"""``python -m memory_worker mcp``, asked by the protocol's own client."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.process import PATIENCE_SECONDS, ROOT, Worker

mcp = pytest.importorskip("mcp")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such sockets")


def test_an_agent_looks_at_a_worker(tmp_path: Path) -> None:
    """Every tool only reads; answers are the worker's own, refusals its own words, and its end is told."""
    path = tmp_path / "worker.sock"

    async def look(started: Worker) -> None:
        arguments = ["-m", "memory_worker", "mcp", "--attach", str(path)]
        server = mcp.StdioServerParameters(command=sys.executable, args=arguments, cwd=ROOT)
        async with mcp.stdio_client(server) as streams, mcp.ClientSession(*streams) as session:
            await session.initialize()
            tools = (await session.list_tools()).tools
            assert {tool.name.partition("_")[0] for tool in tools} == {"memory"}
            assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in tools)
            for tool in tools:
                assert not (await session.call_tool(tool.name, {})).is_error, tool.name
            listed = await session.call_tool("memory_allocations", {"owner": "kv"})
            assert [row["size_bytes"] for row in listed.structured_content["allocations"]] == [4096]
            refused = await session.call_tool("memory_status", {"device_id": "gpu:9"})
            assert refused.is_error
            assert "no device 'gpu:9'; there are cpu" in refused.content[0].text
            started.process.stdin.close()
            started.process.wait(PATIENCE_SECONDS)
            gone = await session.call_tool("memory_pressure", {})
            assert "was the worker started with --monitor-socket?" in gone.content[0].text

    with Worker("--monitor-socket", str(path)) as started:
        started.call("memory.allocate", {"size_bytes": 4096, "owner": "kv", "device_id": "cpu"})
        asyncio.run(asyncio.wait_for(look(started), 3 * PATIENCE_SECONDS))


def test_without_a_worker_to_look_at(tmp_path: Path) -> None:
    """Its library is asked for first; then it starts all the same, and each question says what to do."""
    done = subprocess.run(
        [sys.executable, "-m", "memory_worker", "mcp", "--nonsense"],
        capture_output=True, text=True, check=False, cwd=ROOT, env={"XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "--attach" in done.stderr


def test_at_a_terminal() -> None:
    """Ctrl-C ends it, whatever its client sends or does not."""
    script = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    greeting = (
        b'{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18",'
        b' "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}}\n'
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, sys.executable, "-m", "memory_worker", "mcp"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
    ) as started:  # fmt: skip
        assert started.stdin is not None
        assert started.stdout is not None
        started.stdin.write(greeting)
        started.stdin.flush()
        assert b"memory-worker" in started.stdout.readline()
        started.send_signal(signal.SIGINT)
        assert started.wait(PATIENCE_SECONDS) == -signal.SIGINT
