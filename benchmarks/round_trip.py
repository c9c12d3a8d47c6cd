"""Round trips against a bare loop that answers the same bytes, client and server on one CPU."""

import os
from functools import partial

import orjson

from benchmarks.harness import Peer, heading, interleaved, row, seconds, worker

FLOOR = """
import os, sys, orjson
reply = orjson.loads(sys.argv[1])
stream = os.fdopen(os.dup(0), "rb")
while line := stream.readline():
    reply["request_id"] = orjson.loads(line)["request_id"]
    os.write(1, orjson.dumps(reply, option=orjson.OPT_APPEND_NEWLINE))
"""
DEPTH, REPEATS, ROUNDS = 64, 1000, 9


def main() -> None:
    """Print the ratios."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {0})
    heading("One request at a time, microseconds per round trip", "readline + loads + dumps + write")
    deep = []
    for action in ("worker.ping", "memory.get_status"):
        line = orjson.dumps({"request_id": os.urandom(16).hex(), "action": action, "data": {}}) + b"\n"
        with worker() as ours, Peer("-c", FLOOR, ours.exchange(line, 1).decode()) as floor:
            for peer in (ours, floor):
                _one_by_one(peer, line)
            single = interleaved(ROUNDS, partial(_one_by_one, ours, line), partial(_one_by_one, floor, line))
            row(action, single[0], single[1], "us", "<= 1.6")
            many = interleaved(ROUNDS, partial(_deep, ours, line), partial(_deep, floor, line))
            deep.append((action, many))
    heading(f"{DEPTH} deep, thousand requests per second", "the same")
    for action, (ours_rate, floor_rate) in deep:
        row(action, ours_rate, floor_rate, "k/s", ">= 0.65 (150 of 230 k/s)")


def _one_by_one(peer: Peer, line: bytes) -> float:
    def work() -> None:
        for _ in range(REPEATS):
            peer.exchange(line, 1)

    return seconds(work) / REPEATS * 1e6


def _deep(peer: Peer, line: bytes) -> float:
    rounds = REPEATS // 10
    batch = line * DEPTH

    def work() -> None:
        for _ in range(rounds):
            peer.exchange(batch, DEPTH)

    return rounds * DEPTH / seconds(work) / 1e3


if __name__ == "__main__":
    main()
