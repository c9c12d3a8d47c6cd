"""A real control group, of version 1, in which a worker is held to a limit."""

import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

LIMIT = 512 * 2**20


@pytest.fixture
def group() -> Iterator[Path]:
    """Return a real control group of 512 MiB, below this process's own."""
    own = Path("/proc/self/cgroup")
    lines = own.read_text().splitlines() if own.is_file() else []
    path = next((row.split(":", 2)[2] for row in lines if "memory" in row.split(":")[1].split(",")), None)
    if path is None:
        pytest.skip("no version 1 memory controller here")
    folder = Path("/sys/fs/cgroup/memory") / path.strip("/") / f"memory-worker-{uuid4().hex}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    try:
        (folder / "memory.limit_in_bytes").write_text(str(LIMIT))
        yield folder
    finally:
        folder.rmdir()


def enter(folder: Path) -> str:
    """Return a line of Python that puts the process that runs it into a group; ``os`` and ``sys`` are imported."""
    return f"import os, sys; open({str(folder / 'cgroup.procs')!r}, 'w').write(str(os.getpid()));"


def worker_in(folder: Path, *through: str) -> tuple[str, ...]:
    """Return the command of a worker that is in a group from its start; a command that it is started through may be given."""
    command = [*through, sys.executable, "-m", "worker"]
    return sys.executable, "-c", f"{enter(folder)} os.execvp({command[0]!r}, {command!r})"
