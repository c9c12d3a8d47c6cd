"""A worker's process, as its client has it."""

import sys
import threading

from tests.e2e.process import PATIENCE_SECONDS, eventually, gone
from worker.client.process import WorkerProcess


def test_a_worker_that_reads_nothing_is_ended_all_the_same() -> None:
    """Somebody may be writing to it, and would for ever: its input can't be closed before it is gone."""
    hangs = [sys.executable, "-c", "import time; time.sleep(600)"]
    process = WorkerProcess(hangs, lambda _: None, lambda: None)
    failed: list[BaseException] = []

    def write() -> None:
        try:
            process.send(bytes(2**20))
        except OSError as error:
            failed.append(error)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    eventually(process._writing.locked, "a write")
    ending = threading.Thread(target=process.end, args=(0.1,), daemon=True)
    ending.start()
    ending.join(PATIENCE_SECONDS)
    assert not ending.is_alive()
    assert gone(process.pid)
    writer.join(PATIENCE_SECONDS)
    assert len(failed) == 1
