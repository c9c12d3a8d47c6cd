"""Spawn to the first ``memory.get_status``, against importing what it needs and building those models."""

import subprocess
import sys

from benchmarks.harness import heading, interleaved, row, seconds, worker

LINE = b'{"request_id": "1", "action": "memory.get_status"}\n'
NEEDS = "import orjson, psutil, pydantic, protocol.actions as a, protocol.envelope as e;"
BUILD = "e.Request.model_validate({'request_id': '1', 'action': 'x'});"
BUILD += "a.ACTIONS['memory.get_status'].params.model_validate({})"
ROUNDS = 15


def main() -> None:
    """Print the ratio."""
    heading("Milliseconds from spawn to the first answer", "python -c 'import ...' and two models built")
    ours, floor = interleaved(ROUNDS, _first_answer, _imports)
    row("memory.get_status", ours, floor, "ms", "<= 1.15")


def _first_answer() -> float:
    def work() -> None:
        peer.append(worker())
        peer[0].exchange(LINE, 1)

    peer: list[object] = []
    taken = seconds(work)
    peer[0].__exit__()  # type: ignore[attr-defined]
    return taken * 1e3


def _imports() -> float:
    command = [sys.executable, "-c", NEEDS + BUILD]
    return seconds(lambda: subprocess.run(command, check=True)) * 1e3


if __name__ == "__main__":
    main()
