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


def questions_and_chat(chance: random.Random, made: Entries) -> Iterator[Use]:
    """Have questions answered from shelves of documents, one after the other, and now and then many people chat at once for minutes."""
    made["models"] = {
        name: (size * MIB, cost)
        for name, size, cost in (("embed", 600, 500.0), ("answer", 5000, 4500.0), ("chat", 8000, 6800.0), ("speech", 1500, 1900.0))
    }  # fmt: skip
    made["shelves"] = {f"v{n}": (chance.randint(40, 700) * MIB, chance.uniform(150, 2500)) for n in range(40)}
    made["passages"] = {f"k{n}": (chance.randint(10, 90) * MIB, chance.uniform(80, 700)) for n in range(400)}
    made["conversations"] = {f"c{n}": (chance.randint(15, 250) * MIB, chance.uniform(150, 3000)) for n in range(90)}  # fmt: skip
    made["replies"] = {f"r{n}": (chance.randint(1, 400) * 1024, chance.uniform(500, 9000)) for n in range(1500)}  # fmt: skip
    at = 0.0
    while True:
        for _ in range(chance.randint(20, 120)):
            at += chance.expovariate(1 / 12)
            question = int(chance.paretovariate(0.7)) % 1500
            yield at, "models", "embed"
            yield at, "replies", f"r{question}"
            for shelf in {question % 40, int(chance.paretovariate(1.0)) % 40}:
                yield at, "shelves", f"v{shelf}"
            for passage in range(chance.randint(1, 3)):
                yield at, "passages", f"k{(question * 13 + passage) % 400}"
            yield at, "models", "answer"
        people = chance.sample(range(90), chance.randint(5, 25))
        ends = at + chance.uniform(120, 900)
        while at < ends:
            at += chance.expovariate(1 / 2)
            yield at, "conversations", f"c{chance.choice(people)}"
            yield at, "models", "speech" if chance.random() < 0.15 else "chat"


def batch_beside_users(chance: random.Random, made: Entries) -> Iterator[Use]:
    """Have a batch go through a queue of files, each once or twice, and beside it people who come in rushes of twenty minutes."""
    made["models"] = {
        "chat": (7000 * MIB, 6100.0),
        "caption": (4200 * MIB, 3900.0),
        "embed": (700 * MIB, 650.0),
    }
    made["files"] = {f"f{n}": (chance.randint(3, 120) * MIB, chance.uniform(20, 1200)) for n in range(1200)}
    made["threads"] = {f"t{n}": (chance.randint(20, 180) * MIB, chance.uniform(250, 2200)) for n in range(80)}
    made["tools"] = {f"o{n}": (chance.randint(1, 40) * MIB, chance.uniform(30, 4000)) for n in range(60)}
    at, queued = 0.0, 0
    asked = at + chance.expovariate(1 / 60)
    while True:
        at += chance.uniform(2, 6)
        while asked < at:
            thread = int(chance.paretovariate(0.6)) % 80
            yield asked, "threads", f"t{thread}"
            yield asked, "models", "chat"
            if chance.random() < 0.5:
                yield asked, "tools", f"o{(thread * 3 + int(chance.paretovariate(1.2))) % 60}"
            busy = 1 + 9 * (asked % 2400 > 1200)
            asked += chance.expovariate(busy / 120)
        yield at, "files", f"f{queued % 1200}"
        if chance.random() < 0.3:
            yield at, "files", f"f{(queued - chance.randint(1, 8)) % 1200}"
        yield at, "models", "caption" if queued % 3 else "embed"
        queued += 1


Made = Callable[[random.Random, Entries], Iterator[Use]]
TRACES: tuple[Made, ...] = (help_desk, projects, night_and_day, questions_and_chat, batch_beside_users)


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
