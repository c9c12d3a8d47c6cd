"""A process with the real torch_directml, told line by line what to run."""

import json
import os
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TIMEOUT_SECONDS = 60.0
"""Far longer than any answer takes: whoever reaches it is killed."""


class WheelError(Exception):
    """What was raised in the process: its type and its first line."""


class Wheel:
    """Runs Python in the process; it knows ``torch``, ``dml`` and ``empty(bytes, adapter=0)``.

    Killed, if it still runs, where the ``with`` ends.
    """

    def __init__(self, python: Path, environment: dict[str, str]) -> None:
        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            (str(python), str(Path(__file__).with_name("wheel_child.py"))),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **environment},
        )
        self._watchdog = threading.Timer(TIMEOUT_SECONDS, self.process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchdog.cancel()
        self.kill()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdout.close()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it died before it read what was last sent
        self._log.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def send(self, code: str) -> None:
        """Let it run an expression or statements; `answer` has the outcome."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(code).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """Return the value of what was sent. Raises WheelError, and EOFError with its stderr if it died."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise EOFError(f"exit code {self.process.returncode}: {self.log()}")
        value, error = json.loads(line)
        if error:
            raise WheelError(error)
        return value

    def run(self, code: str) -> Any:
        """Run an expression, and return its value, or statements."""
        self.send(code)
        return self.answer()

    def kill(self) -> None:
        """End it at once, and wait until the system has taken back what it held."""
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        """Return what it wrote to stderr so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")
