"""``python -m worker simulate FILE``: what a trace of uses costs under each policy, and at best."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.vocabulary import EvictionStrategy

if TYPE_CHECKING:
    from worker.tools.simulate.optimum import Optimum
    from worker.tools.simulate.replay import ReplayCost

_BAD_INPUT = 2


def main(argv: list[str]) -> int:
    """Run the command: 0, or 2 with one line on stderr where the file cannot be read or replayed."""
    arguments = _parser().parse_args(argv)
    # Only now: ``--help`` and the worker itself do not wait for what a simulation needs.
    from worker.tools.simulate.optimum import offline_optimum  # noqa: PLC0415
    from worker.tools.simulate.replay import replay_all  # noqa: PLC0415
    from worker.tools.simulate.trace_file import TraceError, read_trace  # noqa: PLC0415

    try:
        with Path(arguments.file).open(encoding="utf-8-sig", errors="strict") as lines:
            trace = read_trace(lines, arguments.capacity_bytes)
    except (OSError, UnicodeDecodeError, TraceError) as error:
        print(f"{arguments.file}: {error}", file=sys.stderr)
        return _BAD_INPUT
    strategies = tuple(EvictionStrategy(name) for name in arguments.policy or EvictionStrategy)
    costs = replay_all(trace, tuple(dict.fromkeys(strategies)))
    optimum = offline_optimum(trace, arguments.optimum_seconds)
    print(_as_json(costs, optimum) if arguments.json else _as_table(costs, optimum))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m worker simulate",
        description="Replay a trace of model uses (JSON lines) under each eviction policy, and at best.",
    )
    parser.add_argument("file", metavar="FILE", help="a trace, or a log written by --record")
    parser.add_argument("--capacity-bytes", type=_positive, metavar="N", help="replaces the file's")
    parser.add_argument(
        "--policy",
        action="append",
        choices=[strategy.value for strategy in EvictionStrategy],
        help="only this one; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument(
        "--optimum-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="the most that the exact optimum may take; a proven bound is given after that (default 30)",
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        message = "must be at least 1"
        raise argparse.ArgumentTypeError(message)
    return value


def _as_json(costs: dict[EvictionStrategy, "ReplayCost"], optimum: "Optimum") -> str:
    policies = {
        strategy.value: {"reload_ms": cost.reload_ms, "loads": cost.loads, "evictions": cost.evictions}
        for strategy, cost in costs.items()
    }
    best = {
        "reload_ms": optimum.reload_ms,
        "proven": optimum.proven,
        "kind": "exact" if optimum.proven else "lower_bound",
        "method": optimum.method,
    }
    return json.dumps({"policies": policies, "optimum": best})


def _as_table(costs: dict[EvictionStrategy, "ReplayCost"], optimum: "Optimum") -> str:
    rows = [f"{'policy':<16}{'reload s':>14}{'loads':>10}{'evictions':>11}{'x best':>9}"]
    for strategy, cost in costs.items():
        ratio = f"{cost.reload_ms / optimum.reload_ms:>9.3f}" if optimum.reload_ms else f"{'-':>9}"
        seconds = f"{cost.reload_ms / 1000:>14.3f}"
        rows.append(f"{strategy.value:<16}{seconds}{cost.loads:>10}{cost.evictions:>11}{ratio}")
    name, mark = ("optimum", "exact") if optimum.proven else ("lower bound", "not proven to be reachable")
    rows.append(f"{name:<16}{optimum.reload_ms / 1000:>14.3f}  ({mark}: {optimum.method})")
    return "\n".join(rows)
