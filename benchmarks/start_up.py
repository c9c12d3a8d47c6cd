"""Spawn to the first ``memory.get_status``, against importing what it needs and building those models.

Both from bytecode, as what is installed has it.
"""

import os
import subprocess
import sys
import tempfile
import time

from benchmarks.harness import heading, interleaved, row, seconds, worker

LINE = b'{"request_id": "1", "action": "memory.get_status"}\n'
NEEDS = "import orjson, psutil, pydantic, protocol.actions as a, protocol.envelope as e;"
BUILD = "e.Request.model_validate({'request_id': '1', 'action': 'x'});"
BUILD += "a.ACTIONS['memory.get_status'].params.model_validate({})"
ROUNDS = 15


def main() -> None:
    """Print the ratio."""
    heading("Milliseconds from spawn to the first answer", "python -c 'import ...' and two models built")
    with tempfile.TemporaryDirectory() as bytecode:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = bytecode
        _first_answer(), _imports()
        ours, floor = interleaved(ROUNDS, _first_answer, _imports)
    row("memory.get_status", ours, floor, "ms", "<= 1.15")


def _first_answer() -> float:
    started = time.perf_counter()
    with worker() as peer:
        peer.exchange(LINE, 1)
        return (time.perf_counter() - started) * 1e3


def _imports() -> float:
    command = [sys.executable, "-c", NEEDS + BUILD]
    return seconds(lambda: subprocess.run(command, check=True)) * 1e3


if __name__ == "__main__":
    main()
