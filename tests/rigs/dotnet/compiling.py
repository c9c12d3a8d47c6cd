"""One compiler process for all builds of a run: each of its own would compile Roslyn anew, for seconds."""

import atexit
import functools
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

BUILD_SECONDS = 300


class BuildError(Exception):
    """The compiler said no; the message holds its diagnostics."""


def run(plan: Path, root: Path, roslyn: Path) -> None:
    """Have the jobs of a plan done. Raises BuildError."""
    compiler = _compiler(root, roslyn)
    try:
        answer = compiler.ask(plan)
    except (OSError, ValueError):
        _compiler.cache_clear()
        message = f"the compiler ended with {compiler.end()}:\n{compiler.log()}"
        raise BuildError(message) from None
    if not answer["succeeded"]:
        message = f"the compiler refuses it:\n{answer['said']}"
        raise BuildError(message)


class _Compiler:
    def __init__(self, root: Path, roslyn: Path) -> None:
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("compiler.py")), str(root), str(roslyn)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        atexit.register(self.end)

    def ask(self, plan: Path) -> dict[str, object]:
        """Return its answer. OSError or ValueError where it gives none, or none in time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        stuck = threading.Timer(BUILD_SECONDS, self._process.kill)
        stuck.start()
        try:
            self._process.stdin.write(f"{plan}\n")
            self._process.stdin.flush()
            answer: dict[str, object] = json.loads(self._process.stdout.readline())
        finally:
            stuck.cancel()
        return answer

    def end(self) -> int:
        """End its input, and so itself; returns its exit code."""
        self._process.communicate()
        return self._process.returncode

    def log(self) -> str:
        """Return what it wrote to stderr."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")


@functools.cache
def _compiler(root: Path, roslyn: Path) -> _Compiler:
    return _Compiler(root, roslyn)
