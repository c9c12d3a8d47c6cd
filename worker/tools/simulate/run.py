"""What the command prints of a file: which kind of trace it is decides."""

import argparse
import sys
from typing import TextIO

from protocol.vocabulary import EvictionStrategy
from worker.tools.simulate import consumer_results, results, what_if
from worker.tools.simulate.consumer_trace import is_consumer_trace, read_consumer_trace
from worker.tools.simulate.counterfactuals import consumers_what_if, models_what_if
from worker.tools.simulate.lines import TraceError, first_object, whole
from worker.tools.simulate.trace_file import read_traces

__all__ = ["TraceError", "run"]


def run(lines: TextIO, arguments: argparse.Namespace) -> str:
    """Read a trace, replay it, and return what is to be printed. TraceError where it can't be replayed."""
    if is_consumer_trace(first_object(lines)):
        if arguments.policy:
            raise TraceError("--policy is about models; consumers are compared by price")
        consumers = read_consumer_trace(whole(lines), arguments.capacity_bytes)
        if arguments.what_if:
            return _told({"": consumers_what_if(consumers, arguments.within, _tell)}, arguments)
        found = consumer_results.simulate_consumers(consumers, arguments.optimum_seconds)
        return consumer_results.as_json(found) if arguments.json else consumer_results.as_table(found)
    traces = read_traces(whole(lines), arguments.capacity_bytes)
    if arguments.what_if:
        strategy = EvictionStrategy((arguments.policy or [EvictionStrategy.ADAPTIVE])[0])
        tried = {
            each: models_what_if(trace, strategy, arguments.within, _tell) for each, trace in traces.items()
        }
        return _told(tried, arguments)
    strategies = tuple(dict.fromkeys(map(EvictionStrategy, arguments.policy or EvictionStrategy)))
    rows = {
        device_id: results.simulate(trace, strategies, arguments.optimum_seconds)
        for device_id, trace in traces.items()
    }
    return results.as_json(rows) if arguments.json else results.as_table(rows)


def _tell(step: int, steps: int) -> None:
    """Say how far it is to who watches: a long record takes a minute."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\rreplay {step} of at most {steps} ")
        sys.stderr.flush()


def _told(results: dict[str, what_if.WhatIf], arguments: argparse.Namespace) -> str:
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    return what_if.as_json(results) if arguments.json else what_if.as_text(results)
