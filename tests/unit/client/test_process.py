"""A worker's process, as its client has it."""

import json
import logging
import sys
import threading
from contextlib import suppress

import pytest

from tests.e2e.process import PATIENCE_SECONDS, eventually, gone
from worker.client.process import WorkerProcess, log


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


def test_a_worker_that_lives_on_without_its_output_keeps_no_caller_waiting() -> None:
    """It can't answer any more: it is ended, also where somebody writes to it, and whoever waits is told how."""
    silent = [sys.executable, "-c", "import os, time; os.read(0, 1); os.close(1); time.sleep(600)"]
    made, told, said = threading.Event(), threading.Event(), list[str]()

    def on_end() -> None:
        made.wait()
        said.append(process.obituary(0.1))
        told.set()

    process = WorkerProcess(silent, lambda _: None, on_end)

    def write() -> None:
        with suppress(OSError):
            process.send(bytes(2**20))

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    eventually(process._writing.locked, "a write")
    made.set()
    try:
        assert told.wait(PATIENCE_SECONDS)
        assert "SIGTERM" in said[0]
    finally:
        process.end(0.1)
    writer.join(PATIENCE_SECONDS)
    assert gone(process.pid)


def test_a_line_of_its_log_is_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    """With its fields on the record. A name in it makes no line of its own and moves no cursor; only a traceback has lines."""
    fields = {
        "time": 1.5,
        "level": "error",
        "message": "it failed",
        "owner": "a\n\x1b[2Jb",
        "code": None,
        "traceback": "one\ntwo\n",
    }
    says = f"import sys; sys.stderr.write({json.dumps(fields)!r} + chr(10) + 'of a library' + chr(10))"
    caplog.set_level("DEBUG", "memory_worker")
    ended = threading.Event()
    process = WorkerProcess([sys.executable, "-c", says], lambda _: None, ended.set)
    assert ended.wait(PATIENCE_SECONDS)
    quoted = process.obituary(PATIENCE_SECONDS)
    eventually(lambda: len(caplog.records) == 2, "both lines")
    (said, plain) = caplog.records
    assert said.message == "it failed, owner a\\u000a\\u001b[2Jb, traceback one\ntwo"
    assert (said.levelname, vars(said)["fields"]["owner"]) == ("ERROR", "a\n\x1b[2Jb")
    assert (plain.message, plain.levelname) == ("of a library", "WARNING")
    assert said.message in quoted


def test_a_filter_that_fails_ends_no_reading() -> None:
    """What the host's own logging raises loses that line: the process can write on, and its last words are known."""
    talks = [
        sys.executable,
        "-c",
        "import sys; [print(each, file=sys.stderr, flush=True) for each in range(5)]",
    ]

    def fails(_: logging.LogRecord) -> bool:
        raise ValueError

    log.addFilter(fails)
    try:
        process = WorkerProcess(talks, lambda _: None, lambda: None)
        said = process.obituary(PATIENCE_SECONDS)
    finally:
        log.removeFilter(fails)
    assert said.split()[-5:] == [*"01234"]
