"""The n-th failure of everything that can fail, for n = 1, 2, 3 … until an action succeeds: what it leaves behind.

As SQLite tests itself: for each action of the protocol's table, with each of its published samples, the n-th
allocation, thread start, open, read, write, fsync, map and device call fails. After each: one reply, which tells the
truth about what was done; the ledger is as before, or as said; the worker lives, can be used, and ends in order.

``python -m benchmarks.faults [--seed N --sample N] [ACTION …]``. Exits with 1 where a promise was broken.
"""

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.fault_injection import KINDS
from benchmarks.fault_victim import Ended, Victim
from protocol.actions import ACTIONS

SAMPLES = Path(__file__).resolve().parents[1] / "schemas" / "samples"
ENOUGH = 30
"""So many in a row that end as without a failure say that no allocation is left to fail; of other kinds it is counted."""
_NEVER = 10**9
"""The allocation that never comes."""
MOST = 1_000
_OF_AN_END = 20
"""Failures of a kind that are tried where the worker ends: each takes a new one."""
BROKEN = (
    "ended",
    "no reply",
    "twice",
    "untruthful",
    "row left",
    "unfinished",
    "stuck",
    "exit status",
    "files left",
)
"""What must not be."""


class Trial:
    """One action with one sample's data."""

    def __init__(self, action: str, name: str, data: dict[str, Any]) -> None:
        self.action = action
        self.name = name
        self._data = data

    def data(self, victim: Victim) -> dict[str, Any]:
        """Return the data, naming what is there."""
        made: dict[str, Any] = _renamed(self._data, victim.names)
        return made


def trials() -> Iterator[Trial]:
    """Return every action of the protocol's table, with every valid sample of its parameters."""
    for action, row in ACTIONS.items():
        for path in sorted(SAMPLES.glob(f"{row.params.__name__}-valid-*.json")):
            yield Trial(action, path.stem.split("-", 2)[2], json.loads(path.read_text(encoding="utf-8")))


def _renamed(value: Any, names: dict[str, str], key: str = "") -> Any:
    if isinstance(value, dict):
        return {each: _renamed(inner, names, each) for each, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(each, names, key) for each in value]
    if key.endswith("allocation_id") and value is not None:
        return names["allocation_id"]
    if isinstance(value, str) and value.startswith("cuda:"):
        return "sim:0"
    return names.get(key, value) if isinstance(value, str) else value


def injected(
    victim: Victim, trial: Trial, kind: str, n: int, segment: int = 0
) -> tuple[str, list[str], bool]:
    """Let the n-th call of a kind fail in an action.

    Returns what came of it, what was wrong, and whether there is more to fail: of allocations, another segment.
    """
    victim.reset()
    before = victim.ledger()
    data = trial.data(victim)
    victim.ask("fault.arm", kind=kind, n=n, segment=segment)
    request_id = victim.send(trial.action, data)
    reply = victim.reply(request_id)
    if trial.action == "worker.shutdown":  # it ends, and that it does is all that can be seen
        status = victim.process.wait(20)
        return "ok" if reply["success"] else "refused", ["exit status"] if status else [], n < _OF_AN_END
    found = victim.disarm()
    wrong = victim.wait_for_transfers() if trial.action == "memory.transfer" else []
    more = found["segments"] > segment if kind == "memory" else found["failed"] > 0
    after = victim.ledger()
    wrong += ["twice"] if len(victim.replies[request_id]) > 1 else []
    if not reply["success"] and before != after:
        wrong.append("untruthful")
    outcome = "ok" if reply["success"] else f"{reply['error']['code']}/{reply['error']['executed']}"
    if ACTIONS[trial.action].changes or not reply["success"]:
        wrong += _left(victim)
    return outcome, wrong, more


def _left(victim: Victim) -> list[str]:
    """Return what is not as it should be once everything is cleared."""
    wrong = []
    for device_id, limits in victim.limits.items():
        victim.ask("memory.set_limits", device_id=device_id, **limits)
    victim.ask("memory.clear", clear_type="all", force=True)
    counted = ("allocated_bytes", "allocation_count", "model_bytes", "external_bytes")
    rows = victim.ask("memory.get_status", refresh=True)["data"]["devices"]
    if any(row[each] for row in rows for each in counted):
        wrong.append("row left")
    if victim.files():
        wrong.append("files left")
    made = victim.ask("memory.allocate", size_bytes=4096, device_id="cpu")
    copied = made["success"] and victim.ask(
        "memory.transfer", source_allocation_id=made["data"]["allocation_id"], destination_device_id="sim:0"
    )
    if not copied or not copied["success"]:
        wrong.append("stuck")
    return wrong


def _ended(process: "subprocess.Popen[bytes]") -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(0.5)
    return process.returncode is not None


class Faults:
    """The whole of it: actions x failures, and what came of them."""

    def __init__(self, *, verbose: bool = True) -> None:
        self.outcomes: Counter[tuple[str, str, str]] = Counter()
        self.broken: list[str] = []
        self.injections = 0
        self._verbose = verbose
        self._folder = tempfile.TemporaryDirectory()
        self._victim: Victim | None = None

    def close(self) -> None:
        """End the worker, and take what it wrote away."""
        if self._victim is not None:
            with self._victim as victim:
                self._note(victim.end(), "at the end")
        self._folder.cleanup()

    def run(self, trial: Trial, kind: str, n: int, segment: int = 0) -> tuple[str, bool]:
        """Inject one failure. Returns what came of it, and whether there is more to fail."""
        self.injections += 1
        where = f"{trial.action} ({trial.name}), {kind} {segment}.{n}"
        if self._victim is None:
            self._victim = Victim(Path(self._folder.name))
        victim = self._victim
        try:
            outcome, wrong, more = injected(victim, trial, kind, n, segment)
        except Ended:
            gone = _ended(victim.process)
            outcome, wrong, more = "none", ["ended" if gone else "no reply"], True
            where += f": exit status {victim.process.poll()} {victim.last_words()}"
        self._note(wrong, where)
        self.outcomes[trial.action, kind, outcome] += 1
        if wrong or trial.action == "worker.shutdown":
            victim.__exit__()
            self._victim = None
        return outcome, more

    def until_it_succeeds(self, trial: Trial, kind: str) -> None:
        """Let the first fail, then the second, and so on."""
        if kind == "memory":
            undisturbed, segment = self.run(trial, kind, _NEVER)[0], 0
            while self._segment(trial, segment, undisturbed):
                segment += 1
            return
        for n in itertools.count(1):
            if not self.run(trial, kind, n)[1]:
                return

    def _segment(self, trial: Trial, segment: int, undisturbed: str) -> bool:
        """Let allocations fail between two calls of orjson. Returns whether there is another such part."""
        in_a_row, n, more = 0, 0, False
        while in_a_row < ENOUGH and n < MOST:
            n += 1
            outcome, more = self.run(trial, "memory", n, segment)
            in_a_row = in_a_row + 1 if outcome == undisturbed else 0
        return more

    def _note(self, wrong: list[str], where: str) -> None:
        for each in wrong:
            self.broken.append(f"{each}: {where}")
            if self._verbose:
                print(f"BROKEN {each}: {where}", flush=True)

    def table(self) -> str:
        """Return actions x failures x outcomes, and the sums."""
        lines = [f"{'action':44} {'failure':8} outcomes"]
        for action, kind in dict.fromkeys((action, kind) for action, kind, _ in self.outcomes):
            found = {name: count for (a, k, name), count in self.outcomes.items() if (a, k) == (action, kind)}
            lines.append(
                f"{action:44} {kind:8} " + ", ".join(f"{count} {name}" for name, count in found.items())
            )
        kinds = Counter(each.partition(":")[0] for each in self.broken)
        lines.append(f"{self.injections} failures: " + ", ".join(f"{kinds[each]} {each}" for each in BROKEN))
        return "\n".join(lines)


def sample(seed: int, count: int, *, verbose: bool = False) -> Faults:
    """Inject so many failures, of any kind, anywhere in any action: the same ones for the same seed."""
    chance = random.Random(seed)
    every = [each for each in trials() if each.action != "worker.shutdown"]
    faults = Faults(verbose=verbose)
    try:
        for _ in range(count):
            kind = chance.choice(KINDS)
            n = chance.randrange(1, 200) if kind == "memory" else chance.randrange(1, 8)
            faults.run(chance.choice(every), kind, n, chance.randrange(6) if kind == "memory" else 0)
    finally:
        faults.close()
    return faults


def main() -> int:
    """Run it, and print what came of it. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("actions", nargs="*", metavar="ACTION", help="only these (default: all)")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only these failures; repeatable")
    parser.add_argument("--sample", type=int, metavar="N", help="N failures anywhere, instead of all")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    arguments = parser.parse_args()
    if arguments.sample is not None:
        faults = sample(arguments.seed, arguments.sample, verbose=True)
    else:
        faults = Faults()
        try:
            for trial in trials():
                if not arguments.actions or trial.action in arguments.actions:
                    for kind in arguments.kind or KINDS:
                        faults.until_it_succeeds(trial, kind)
        finally:
            faults.close()
    print(faults.table())
    return 1 if faults.broken else 0


if __name__ == "__main__":
    sys.exit(main())
