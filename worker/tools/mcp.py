"""``python -m memory_worker mcp``: lets an editor or an agent look at a worker, by the Model Context Protocol. Changes nothing.

It asks a worker that runs already, through its ``--monitor-socket``, which answers questions only and lets its owner
alone in. Each call connects anew, so that a worker that was replaced is found again.
"""

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker import __version__
from worker.core.output import Parser, not_written
from worker.export.socket_path import default_path
from worker.tools.attached import AttachedWorker, SourceError, only_socket, socket_of

_BAD_INPUT = 2
_INSTRUCTIONS = (
    "A memory worker keeps the accounts of an AI application's memory: devices, allocations by owner, loaded models,"
    " pressure. Sizes are bytes; null is unknown. Begin with memory_status; memory_pressure says why a device is short"
    " and what could be done; nothing here changes anything."
)


def main(argv: list[str]) -> int:
    """Serve on stdin and stdout until they end: 0, or with one line on stderr 2 where that can't be, and 1 where stdout takes no more."""
    arguments = _parser().parse_args(argv)
    try:
        from mcp.server.mcpserver import MCPServer  # noqa: PLC0415 - an extra; the rest of the worker does without
        from mcp.server.mcpserver.exceptions import ToolError  # noqa: PLC0415 - as above
        from mcp.types import ToolAnnotations  # noqa: PLC0415 - as above
    except ImportError:
        print("mcp needs the protocol's own library: pip install 'memory-worker[mcp]'", file=sys.stderr)
        return _BAD_INPUT
    server = MCPServer("memory-worker", instructions=_INSTRUCTIONS, version=__version__)

    def ask(action: str, **data: Any) -> dict[str, Any]:
        try:
            with contextlib.closing(AttachedWorker(_socket(arguments.attach))) as worker:
                return worker.ask(action, {name: value for name, value in data.items() if value is not None})
        except (SourceError, OSError, EOFError) as error:
            raise ToolError(str(error) or "the worker has gone") from error  # what a model is to read

    for tool in _tools(ask):
        server.add_tool(
            tool, annotations=ToolAnnotations(readOnlyHint=True, openWorldHint=False), structured_output=True
        )
    # The library notices Ctrl-C only after another line of its client's; nothing here needs an end in order.
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = 0
    try:
        server.run("stdio")
    except* OSError as lost:
        error: OSError | ExceptionGroup[OSError] = lost
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        code = not_written(sys.stdout, error)
    return code


def _tools(ask: Callable[..., dict[str, Any]]) -> tuple[Callable[..., dict[str, Any]], ...]:
    """Return the questions. Their names, docstrings and parameters are what a model reads."""

    def memory_status(device_id: str | None = None) -> dict[str, Any]:
        """Tell where the memory is: total, budget, used, allocated and available bytes of each device."""
        return ask("memory.get_status", device_id=device_id, include_usage_stats=True)

    def memory_pressure(device_id: str | None = None) -> dict[str, Any]:
        """Tell how close each device is to running out, by which signals, where it is heading, and what would help."""
        return ask("memory.get_pressure", device_id=device_id)

    def memory_allocations(
        device_id: str | None = None, owner: str | None = None, limit: int = 50
    ) -> dict[str, Any]:
        """List live allocations, oldest first, with owner, purpose, size and age."""
        return ask("memory.get_allocations", device_id=device_id, owner=owner, limit=limit)

    def memory_models(model_id: str | None = None) -> dict[str, Any]:
        """List the configured models: where each is loaded, what it takes, whether it is in use, why it can't load."""
        return ask("memory.get_model_status", model_id=model_id)

    def memory_history(time_range: str = "15m") -> dict[str, Any]:
        """Tell what happened lately (90s, 15m, 1h): evictions with reasons, suspected leaks, actions and their times."""
        sections = ["actions", "leaks", "evictions", "expirations"]
        return ask("memory.get_analytics", time_range=time_range, include=sections)

    return memory_status, memory_pressure, memory_allocations, memory_models, memory_history


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m memory_worker mcp",
        description="Serve read-only questions about a running worker to an MCP client on stdin and stdout.",
    )
    parser.add_argument(
        "--attach",
        metavar="PID|SOCKET",
        help="a worker that has --monitor-socket; left out: the only one of this user's that has it",
    )
    return parser


def _socket(attached: str | None) -> Path:
    """Return the socket to ask at. SourceError where it is not clear which."""
    if attached is not None:
        return socket_of(attached)
    found = only_socket()
    if found is None:
        folder = default_path(0).parent
        raise SourceError(f"no worker of yours listens in {folder}: start one with --monitor-socket")
    return found
