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
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import orjson

from benchmarks.fault_injection import KINDS
from protocol.actions import ACTIONS

SAMPLES = Path(__file__).resolve().parents[1] / "schemas" / "samples"
REPLY_SECONDS = 10.0
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


class Ended(Exception):  # noqa: N818 - the worker's end is an outcome that is counted here, and no error of the benchmark's
    """The worker is gone, or silent."""


class Victim:
    """A worker with the injecting plugin, two models and a simulated device."""

    def __init__(self, folder: Path) -> None:
        self.shared = folder / "shared"
        self.shared.mkdir(exist_ok=True)
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - it is open as long as this object, whose __exit__ closes it
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "worker", "--plugin", "benchmarks.fault_injection",
                "--models", str(_models(folder)), "--simulated-device", "64MiB", "--shared-folder", str(self.shared),
                "--record", str(folder / "record.jsonl"),
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, bufsize=0,
        )  # fmt: skip
        self._numbers = itertools.count(1)
        self._selector = selectors.DefaultSelector()
        assert self.process.stdout is not None
        self._selector.register(self.process.stdout, selectors.EVENT_READ)
        self._held = b""
        self._transfers = 1
        """The first that was not looked at."""
        self.replies: dict[str, list[dict[str, Any]]] = {}
        self.ask("worker.ping")
        self.limits = {
            each["device_id"]: self.ask("memory.set_limits", device_id=each["device_id"])["data"]["limits"]
            for each in self.ask("memory.get_status")["data"]["devices"]
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._selector.close()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            if stream is not None:
                stream.close()

    def send(self, action: str, data: dict[str, Any]) -> str:
        """Write a request; returns its id."""
        request_id = f"r{next(self._numbers)}"
        request = {"request_id": request_id, "action": action, "data": data}
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(orjson.dumps(request) + b"\n")
        except OSError as error:
            raise Ended from error
        return request_id

    def reply(self, request_id: str) -> dict[str, Any]:
        """Wait for a reply. Ended where none comes."""
        end = time.monotonic() + REPLY_SECONDS
        while request_id not in self.replies:
            if not self._selector.select(max(0, end - time.monotonic())):
                raise Ended
            assert self.process.stdout is not None
            piece = self.process.stdout.read(1 << 16)
            if not piece:
                raise Ended
            *lines, self._held = (self._held + piece).split(b"\n")
            for line in lines:
                reply = orjson.loads(line)
                if "event" not in reply:
                    self.replies.setdefault(reply["request_id"], []).append(reply)
        return self.replies[request_id][0]

    def ask(self, action: str, **data: Any) -> dict[str, Any]:
        """Ask, and return the reply."""
        return self.reply(self.send(action, data))

    def disarm(self) -> dict[str, Any]:
        """Let everything work again, and return what was counted. What is armed may fail this, too."""
        while True:
            reply = self.ask("fault.off")
            if reply["success"]:
                return dict(reply["data"])

    def ledger(self) -> Any:
        """Return what the worker says it holds."""
        devices = self.ask("memory.get_usage")["data"]["devices"]
        models = self.ask("memory.get_model_status")["data"]["models"]
        return (
            [(each["device_id"], each["allocated_bytes"], each.get("external_bytes")) for each in devices],
            [(each["model_id"], each["state"] in {"loaded", "offloaded"}) for each in models],
            [each["allocation_id"] for each in self.ask("memory.get_allocations")["data"]["allocations"]],
            [self.ask("memory.set_limits", device_id=each)["data"]["limits"] for each in self.limits],
        )

    def reset(self) -> None:
        """Empty it, and make what samples name."""
        self.ask("worker.subscribe", events=[])
        for device_id, limits in self.limits.items():
            self.ask("memory.set_limits", device_id=device_id, **limits)
        self.ask("memory.clear", clear_type="all", force=True)
        self.names = {
            "allocation_id": self.ask("memory.allocate", size_bytes=16384, device_id="cpu")["data"][
                "allocation_id"
            ],
            "transfer_id": "transfer-1",
            "model_id": "m0",
        }

    def wait_for_transfers(self) -> list[str]:
        """Wait for the end of all transfers that were begun, and return what was not in order."""
        for number in itertools.count(self._transfers):
            reply = self.ask("memory.get_transfer", transfer_id=f"transfer-{number}")
            if not reply["success"]:
                self._transfers = number
                return []
            end = time.monotonic() + REPLY_SECONDS
            while reply["data"]["state"] in {"queued", "running"}:
                if time.monotonic() > end:
                    return ["unfinished"]
                reply = self.ask("memory.get_transfer", transfer_id=f"transfer-{number}")
        raise AssertionError

    def files(self) -> list[Path]:
        """Return the shared files there are, but for the one that says that it lives."""
        found = list(self.shared.iterdir())
        locks = [each for each in found if each.suffix == ".lock"]
        return [each for each in found if each not in locks[:1]]

    def last_words(self) -> str:
        """Return the end of its log."""
        self.log.seek(0)
        return self.log.read()[-300:].decode(errors="replace")

    def end(self) -> list[str]:
        """Let it end, and return what was not in order."""
        assert self.process.stdin is not None
        try:
            self.ask("memory.clear", clear_type="all", force=True)
        except Ended:
            return ["ended"]
        self.process.stdin.close()
        try:
            status = self.process.wait(20)
        except subprocess.TimeoutExpired:
            return ["stuck"]
        wrong = ["exit status"] if status else []
        return [*wrong, *(["files left"] if list(self.shared.iterdir()) else [])]


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


def _models(folder: Path) -> Path:
    """Write two small models, and the file that declares them."""
    rows = []
    for name in ("m0", "m1"):
        header = json.dumps({"w": {"dtype": "U8", "shape": [65536], "data_offsets": [0, 65536]}}).encode()
        header += b" " * (-len(header) % 8)
        (folder / f"{name}.safetensors").write_bytes(
            len(header).to_bytes(8, "little") + header + bytes(65536)
        )
        rows.append({"id": name, "loader": "safetensors", "path": f"{name}.safetensors", "offload": True})
    path = folder / "models.yaml"
    path.write_text(json.dumps({"models": rows}))
    return path


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
