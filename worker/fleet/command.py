"""The command line of a fleet. Standard library only: it is read before the descriptors are claimed."""

import argparse
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import NoReturn

from worker.app.options import fail, parse
from worker.core.output import Parser

_NODES_MAX = 64


def fleet(arguments: list[str], claim: Callable[[], tuple[int, int]]) -> NoReturn:
    """Serve a fleet on stdin and stdout until the host is done. Does not return: the process ends with 0.

    ``claim`` takes the descriptors, before any library is imported. Exits with 2 for options that can't be used, for a
    Ray that is not installed or can't be reached, and where a node does not start.
    """
    own, options = _parse(arguments)
    if sys.platform == "win32":
        fail("a fleet is for Linux: Ray has several machines there alone")
    if find_spec("ray") is None:
        fail("fleet needs Ray, on Linux: pip install 'memory-worker[fleet]'")
    read_fd, write_fd = claim()
    from worker.core.log import gather, serve_log, set_level  # noqa: PLC0415 - libraries may write to stdout: only once it is claimed
    from worker.fleet.surroundings import prepare  # noqa: PLC0415 - as above

    set_level(own.log_level)
    serve_log()
    say_plainly = gather("ray")
    prepare(alone=own.address is None)
    from worker.fleet.serve import serve_fleet  # noqa: PLC0415 - Ray reads its surroundings as it is imported
    from worker.fleet.words import FleetError  # noqa: PLC0415 - as above

    try:
        serve_fleet(own, tuple(options), read_fd, write_fd)
    except FleetError as error:
        say_plainly()
        fail(str(error))


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(
        prog="python -m memory_worker fleet",
        description="Many workers as one: speaks the same protocol on stdin and stdout, with devices named NODE/DEVICE."
        " Every other option goes to each node's worker: see python -m memory_worker --help.",
        allow_abbrev=False,
    )
    parser.add_argument("--address", metavar="ADDRESS", help="of a Ray cluster that is there, such as auto: a node is on each"
        " of its machines (default: Ray is started on this machine, for this process)")  # fmt: skip
    parser.add_argument("--nodes", type=_count, metavar="N", help="without --address: so many nodes on this machine, which"
        " share its memory (default 1)")  # fmt: skip
    parser.add_argument("--monitor-socket", nargs="?", const="", metavar="PATH", help="let python -m memory_worker top attach"
        " to the gateway (default: in the runtime folder, by process id)")  # fmt: skip
    own, options = parser.parse_known_args(arguments)
    if own.address is not None and own.nodes is not None:
        fail(
            "--nodes is for a fleet of this machine alone; with --address every machine of the cluster is a node"
        )
    parsed = parse(options)  # refused here, with a message, rather than by every node
    if parsed.command != "serve":
        fail(f"fleet takes options of a worker, not {parsed.command!r}")
    if parsed.deterministic:
        fail("--deterministic is for one worker: nodes answer in the order in which they are done")
    own.max_inflight, own.max_frame_bytes = parsed.max_inflight, parsed.max_frame_bytes
    own.log_level, own.limit_bytes = parsed.log_level or "warning", parsed.limit_bytes
    return own, [each for each in options if each != "serve"]


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _NODES_MAX:
        message = f"{text!r} is not a number of nodes from 1 to {_NODES_MAX}"
        raise argparse.ArgumentTypeError(message)
    return int(text)
