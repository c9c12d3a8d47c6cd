"""Traces of applications, written to files and replayed by ``simulate``: as those that others bring.

    python -m benchmarks.consumer_files --seeds 3 --first-seed 1

Each is made by events over time, which have nothing to do with how ``benchmarks.consumers`` draws uses, and tells the time of
every use. Nothing was tuned on them.
"""

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from heapq import heapify, heapreplace
from pathlib import Path
from typing import Any

import orjson

MIB = 2**20
USES = 4000

Use = tuple[float, str, str]
"""Seconds, consumer, entry."""
Entries = dict[str, dict[str, tuple[int, float]]]
"""Bytes and milliseconds of each entry of each consumer."""


def help_desk(chance: random.Random, made: Entries) -> Iterator[Use]:
    """Have people ask for minutes and come back days later: a session, what it is about, one of two models, an answer."""
    made["models"] = {
        name: (size * MIB, size * 0.9) for name, size in (("small", 2000), ("large", 7000), ("embed", 500))
    }
    made["sessions"] = {
        f"s{n}": (chance.randint(20, 200) * MIB, chance.uniform(200, 2500)) for n in range(120)
    }
    made["topics"] = {f"t{n}": (chance.randint(5, 60) * MIB, chance.uniform(20, 200)) for n in range(200)}
    made["answers"] = {
        f"a{n}": (chance.randint(2, 900) * 1024, chance.uniform(300, 6000)) for n in range(800)
    }
    coming = [(chance.expovariate(1 / 2000), n) for n in range(120)]
    heapify(coming)
    while True:
        at, person = coming[0]
        subject = int(chance.paretovariate(1.1)) % 200
        for _ in range(chance.randint(2, 9)):
            at += chance.expovariate(1 / 15)
            yield at, "models", "embed"
            yield at, "topics", f"t{subject}"
            yield at, "sessions", f"s{person}"
            yield at, "answers", f"a{(subject * 7 + int(chance.paretovariate(0.9))) % 800}"
            yield at, "models", "large" if subject % 5 == 0 else "small"
        heapreplace(coming, (at + chance.expovariate(1 / (900 if person % 4 else 150)), person))


def projects(chance: random.Random, made: Entries) -> Iterator[Use]:
    """Have a developer work on one project for an hour, then on another: its files again and again, and builds over all of them."""
    for project in range(6):
        made.setdefault("files", {}).update(
            {f"{project}/{n}": (chance.randint(1, 24) * MIB, chance.uniform(5, 400)) for n in range(90)}
        )
        made.setdefault("indices", {})[f"{project}"] = (
            chance.randint(100, 900) * MIB,
            chance.uniform(2000, 15000),
        )
    made["models"] = {
        f"m{n}": (chance.choice([1200, 3000, 5000]) * MIB, chance.uniform(800, 6000)) for n in range(5)
    }
    at = 0.0
    while True:
        project, favourite = chance.randrange(6), f"m{chance.randrange(5)}"
        open_files = chance.sample(range(90), 8)
        for _ in range(chance.randint(20, 60)):
            at += chance.expovariate(1 / 30)
            yield at, "indices", f"{project}"
            for number in chance.sample(open_files, 3):
                yield at, "files", f"{project}/{number}"
            yield at, "models", favourite if chance.random() < 0.8 else f"m{chance.randrange(5)}"
            if chance.random() < 0.05:
                for number in range(90):
                    at += 0.2
                    yield at, "files", f"{project}/{number}"


def night_and_day(chance: random.Random, made: Entries) -> Iterator[Use]:
    """Have users by day, and by night a batch that goes through everything in turn, over and over."""
    made["models"] = {
        "chat": (6000 * MIB, 5200.0),
        "batch": (3500 * MIB, 2800.0),
        "rerank": (900 * MIB, 700.0),
    }
    made["documents"] = {f"d{n}": (chance.randint(4, 80) * MIB, chance.uniform(100, 900)) for n in range(150)}
    made["prefixes"] = {
        f"p{n}": (chance.randint(30, 150) * MIB, chance.uniform(400, 1600)) for n in range(60)
    }
    at = 0.0
    while True:
        for _ in range(chance.randint(150, 250)):
            at += chance.expovariate(1 / 20)
            yield at, "prefixes", f"p{int(chance.paretovariate(0.8)) % 60}"
            yield at, "models", "chat"
            if chance.random() < 0.4:
                yield at, "documents", f"d{int(chance.paretovariate(0.7)) % 150}"
                yield at, "models", "rerank"
        for _ in range(chance.randint(2, 4)):
            for number in range(150):
                at += 2
                yield at, "documents", f"d{number}"
                if number % 10 == 0:
                    yield at, "models", "batch"


Made = Callable[[random.Random, Entries], Iterator[Use]]
TRACES: tuple[Made, ...] = (help_desk, projects, night_and_day)


def write(file: Path, kind: Made, seed: int) -> None:
    """Write a trace: the memory holds a fifth to two fifths of all that is used."""
    chance, made = random.Random(f"{kind.__name__}/{seed}"), Entries()
    source, uses = kind(chance, made), list[Use]()
    while len(uses) < USES:
        uses.append(next(source))
    uses.sort(key=lambda use: use[0])
    everything = sum(size for own in made.values() for size, _ in own.values())
    largest = max(size for own in made.values() for size, _ in own.values())
    named = {
        name: {
            "entries": {
                each: {"size_bytes": size, "cost_ms": round(cost, 3)} for each, (size, cost) in own.items()
            }
        }
        for name, own in made.items()
    }
    header = {
        "consumers": named,
        "capacity_bytes": max(largest, round(everything * chance.uniform(0.2, 0.4))),
    }
    lines = [header, *({"consumer": of, "use": each, "t_ms": round(1000 * at)} for at, of, each in uses)]
    file.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))


def simulate(file: Path) -> dict[str, Any]:
    """Replay a file as a user does."""
    command = [sys.executable, "-m", "worker", "simulate", str(file), "--json", "--optimum-seconds", "0"]
    found: dict[str, Any] = orjson.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def main() -> int:
    """Print the table as Markdown; 1 where the planner costs more than the best partition on the mean, or 1.10 of it anywhere."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    arguments = parser.parse_args()
    print(
        "| trace | planner s | own LRU s | shared LRU s | hindsight s | to hindsight: mean | worst | to own LRU: mean |"
    )
    print("|---|" + "---:|" * 7)
    ratios = list[float]()
    with tempfile.TemporaryDirectory() as folder:
        for kind in TRACES:
            rows = []
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                file = Path(folder) / "trace.jsonl"
                write(file, kind, seed)
                found = simulate(file)["arrangements"]
                rows.append({name: each["rebuild_ms"] / 1000 for name, each in found.items()})
            names = ("planner", "own_lru", "shared_lru", "hindsight_partition")
            to_hindsight = [row["planner"] / row["hindsight_partition"] for row in rows]
            to_own = statistics.mean(row["planner"] / row["own_lru"] for row in rows)
            cells = [f"{sum(row[name] for row in rows):.0f}" for name in names]
            cells += [f"{statistics.mean(to_hindsight):.3f}", f"{max(to_hindsight):.3f}", f"{to_own:.3f}"]
            print(f"| {kind.__name__} | {' | '.join(cells)} |", flush=True)
            ratios += to_hindsight
    return 0 if statistics.mean(ratios) < 1 and max(ratios) <= 1.10 else 1


if __name__ == "__main__":
    raise SystemExit(main())
