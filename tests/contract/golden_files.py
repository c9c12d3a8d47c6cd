"""The golden conversations: what is sent, with which options, and what has to come back."""

import json
from collections.abc import Iterator
from pathlib import Path

from tests.rigs.worker_process import ROOT, converse

FOLDER = Path(__file__).with_name("golden")


class Golden:
    """One conversation: ``<name>.in.jsonl``, ``<name>.out.jsonl``, and its line in ``options.json``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent = FOLDER / f"{name}.in.jsonl"
        self.answered = FOLDER / f"{name}.out.jsonl"
        self.options: tuple[str, ...] = tuple(_options().get(name, ()))

    def run(self, sent: bytes | None = None) -> bytes:
        """Send it, or other bytes with the same options, to a worker, and return what comes back.

        Where this repository lies is different on every machine, and is said as ``/repository``.
        """
        answered = converse(
            self.sent.read_bytes() if sent is None else sent, "--deterministic", *self.options
        )
        return answered.replace(json.dumps(str(ROOT))[1:-1].encode(), b"/repository")


def goldens() -> Iterator[Golden]:
    """Yield every conversation, by name."""
    for path in sorted(FOLDER.glob("*.in.jsonl")):
        yield Golden(path.name.removesuffix(".in.jsonl"))


def _options() -> dict[str, list[str]]:
    """Read the options beyond ``--deterministic``, of the conversations that have any."""
    options: dict[str, list[str]] = json.loads((FOLDER / "options.json").read_text(encoding="utf-8"))
    return options
