"""What a command prints is all that comes on its stdout: what a library says goes where messages go."""

import os
import sys
from collections.abc import Callable
from typing import TextIO

Claim = Callable[[], TextIO]
"""Returns what to print to, once nothing else can print there."""


def claim_output() -> TextIO:
    """Move stdout away, and return it: ``print``, C and child processes get stderr. Before libraries are imported."""
    before = sys.stdout
    try:
        descriptor = os.dup(1)
    except OSError:  # whoever started us closed it
        descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    encoding, errors = getattr(before, "encoding", "utf-8"), getattr(before, "errors", None)
    return open(descriptor, "w", encoding=encoding, errors=errors)  # noqa: PTH123 - lives as long as we do


def as_it_is() -> TextIO:
    """Return stdout, claimed by no caller."""
    return sys.stdout


def put(out: TextIO, text: str) -> int:
    """Print a text and a newline. Returns the exit code: 0, or 1 with a line on stderr if not all of it was taken."""
    try:
        out.write(text + "\n")
        out.flush()
    except OSError as error:
        sys.stderr.write(f"not all of it could be written to stdout: {error.strerror}\n")
        # What is left in the buffer would be tried again at the exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return 1
    return 0
