"""The log: whole JSON lines whatever is logged, and no caller waits for who reads them."""

import os
import subprocess
import sys

import orjson
import pytest

from worker.core.log import MAX_WAITING, message_of
from worker.core.text import printable

SCRIPT = """
import sys
from worker.core import log
log.set_level("debug")
log.serve_log()
{body}
log.end_log(5)
"""


def said(body: str) -> list[dict[str, object]]:
    """Return the lines of a process that logs."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)], capture_output=True, check=True, timeout=30
    )
    assert done.stdout == b""
    return [orjson.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    ("value", "as_code"),
    [
        ("an integer above 64 bits", "2**64"),
        ("half a surrogate pair", "'\\ud800'"),
        ("an object", "object()"),
        ("a cycle", "(lambda a: a.append(a) or a)([])"),
        ("much", "'x' * 1_000_000"),
    ],
)
def test_anything_can_be_logged(value: str, as_code: str) -> None:
    """What JSON cannot hold is told as text, and a line has its bound."""
    lines = said(f"log.log('error', {value!r}, about={as_code})")
    assert [line["message"] for line in lines] == [value]


def test_no_line_has_what_a_terminal_obeys() -> None:
    """Controls and changes of direction are named in the line, and read back as they were."""
    evil = "\x1b]0;x\x07\x9b31m\x7f\u202e\u2028\r\n"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=f"log.log('error', 'm', owner={evil!r})")],
        capture_output=True,
        check=True,
        timeout=30,
    )
    text = done.stderr.decode()
    assert orjson.loads(text)["owner"] == evil
    assert printable(text.removesuffix("\n")) == text.removesuffix("\n")


def test_what_python_says_on_stderr_is_lines_of_the_log() -> None:
    """Warnings, prints, and exceptions that nobody caught are JSON lines."""
    lines = said(
        "import warnings, threading\n"
        "warnings.warn('old')\n"
        "print('printed', 1)\n"
        "print('two', file=sys.stderr); sys.stderr.write('half'); sys.stderr.write(' a line\\n')\n"
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()\n"
    )
    assert [line["message"] for line in lines] == ["old", "printed 1", "two", "half a line", "uncaught"]
    assert "ZeroDivisionError" in str(lines[-1]["traceback"])


def test_no_caller_waits_for_a_stderr_that_is_not_read() -> None:
    """Beyond a bound lines are dropped and counted; once somebody reads, the count is told."""
    body = (
        "import os\n"
        f"for number in range({MAX_WAITING} + 1000): log.log('error', 'x' * 100, number=number)\n"
        "os.write(1, b'done')\n"
        "sys.stdin.read(1)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(body=body)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stderr is not None
        assert os.read(process.stdout.fileno(), 4) == b"done"
        process.stdin.write(b".")
        process.stdin.close()
        lines = [orjson.loads(line) for line in process.stderr]
    dropped = sum(int(line["dropped"]) for line in lines if "dropped" in line)
    assert dropped > 0
    assert len([line for line in lines if "number" in line]) + dropped == MAX_WAITING + 1000


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"time":1.5,"level":"warning","message":"no GPU","model_id":"m"}', "no GPU"),
        ('{"time":1.5,"level":"warning"}', '{"time":1.5,"level":"warning"}'),
        ('{"time":}', '{"time":}'),
        ("out of memory!", "out of memory!"),
    ],
)
def test_the_message_of_a_line_is_what_people_are_told(line: str, said: str) -> None:
    """As the last words of a process that ended: what a library wrote itself is told as it is."""
    assert message_of(line) == said
