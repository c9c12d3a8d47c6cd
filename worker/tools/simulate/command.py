"""``python -m memory_worker simulate FILE``: what a trace costs under each policy or arrangement, and at best."""

import argparse
import sys
from pathlib import Path

from protocol.vocabulary import EvictionStrategy
from worker.app.options import number, size
from worker.core.output import Claim, Parser, as_it_is, put
from worker.core.paths import said_of

_BAD_INPUT = 2
_MOST_PERCENT = 1000
_MOST_SECONDS = 86_400


def main(argv: list[str], claim: Claim = as_it_is) -> int:
    """Run the command: 0, or 2 with one line on stderr where the file cannot be read or replayed."""
    arguments = _parser().parse_args(argv)
    out = claim()
    # Only now: ``--help`` and the worker itself do not wait for what a simulation needs.
    from worker.tools.simulate.run import TraceError, run  # noqa: PLC0415 - not for --help

    try:
        with Path(arguments.file).open(encoding="utf-8-sig", errors="strict") as lines:
            text = run(lines, arguments)
    except (OSError, UnicodeDecodeError, TraceError) as error:
        said = said_of(error) if isinstance(error, OSError) else error
        if isinstance(error, UnicodeDecodeError):
            said = f"it is not UTF-8: byte {error.object[error.start]:#x}; unpack it, or save it as that"
        print(f"{arguments.file}: {said}", file=sys.stderr)
        return _BAD_INPUT
    return put(out, text)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m memory_worker simulate",
        description="Replay a trace (JSON lines): of models, under each eviction policy; of several consumers of memory, "
        "with one planner, with partitions and with LRU. And at best.",
    )
    parser.add_argument("file", metavar="FILE", help="a trace, or a log written by --record")
    parser.add_argument(
        "--capacity-bytes", type=size, metavar="N", help="of each device; replaces the file's"
    )
    parser.add_argument(
        "--policy",
        action="append",
        choices=[strategy.value for strategy in EvictionStrategy],
        help="only this one; may be repeated",
    )
    parser.add_argument(
        "--what-if",
        action="store_true",
        help="tell what other keep-alives, times to live and bounds would have cost, under the first --policy or adaptive",
    )
    parser.add_argument(
        "--within",
        type=_regret,
        default=0.05,
        metavar="PERCENT",
        help="of what it costs, which the smallest bound that --what-if looks for may cost more (default 5)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument(
        "--optimum-seconds",
        type=_seconds,
        default=30.0,
        metavar="S",
        help="the most that the exact optimum may take; a proven bound is given after that (default 30)",
    )
    return parser


def _regret(text: str) -> float:
    return number(text, 0, _MOST_PERCENT, "a percentage") / 100


def _seconds(text: str) -> float:
    return number(text, 0, _MOST_SECONDS, "a time in seconds")
