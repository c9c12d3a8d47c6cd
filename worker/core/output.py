"""What a command prints is all that comes on its stdout, or it says that it is not: what a library says goes where messages go."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

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
        return not_written(out, error)
    return 0


def not_written(out: TextIO, error: OSError) -> int:
    """Say on stderr that not all could be printed. Returns the exit code."""
    sys.stderr.write(f"not all of it could be written to stdout: {error.strerror}\n")
    # What is left in the buffer would be tried again at the exit, and fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
    return 1


class Parser(argparse.ArgumentParser):
    """As argparse's own, which takes no notice where its help or version can't be printed: this one ends with 1 then."""

    def _print_message(self, message: str, file: "SupportsWrite[str] | None" = None) -> None:
        printed = message and file is not None and file is sys.stdout
        if printed:
            if put(sys.stdout, message.removesuffix("\n")) != 0:
                self.exit(1)
        else:
            super()._print_message(message, file)
