"""``python -m memory_worker report FILE``: what was recorded, as one HTML page."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from worker.core.output import Claim, Parser, as_it_is, put
from worker.core.paths import said_of, shown
from worker.tools.report.recording import MALFORMED, RecordingError, bounded_lines, read_recording

_BAD_INPUT = 2


def main(argv: list[str], claim: Claim = as_it_is) -> int:
    """Run the command: 0, or 2 with one line on stderr where a file cannot be read or written."""
    arguments = _parser().parse_args(argv)
    printed_to = claim()
    from worker.tools.report.page import render  # noqa: PLC0415 - not for --help

    source = Path(arguments.file)
    out = Path(arguments.out) if arguments.out is not None else source.parent / f"{source.stem}.html"
    if any(_are_one(out, each) for each in (source, _earlier(source))):
        print(f"{shown(out)}: it is the record itself: name another file with -o", file=sys.stderr)
        return _BAD_INPUT
    try:
        page = render(read_recording(_lines(source)), shown(Path(source.name)))
    except (OSError, RecordingError) as error:
        said = said_of(error) if isinstance(error, OSError) else error
        print(f"{shown(source)}: {said}", file=sys.stderr)
        return _BAD_INPUT
    except MALFORMED as error:
        print(
            f"{shown(source)}: it holds what no worker records ({type(error).__name__}: {error})",
            file=sys.stderr,
        )
        return _BAD_INPUT
    try:
        out.write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        print(f"{shown(out)}: {said_of(error, 'written')}", file=sys.stderr)
        return _BAD_INPUT
    return put(printed_to, f"{shown(out)}: {len(page):,} characters")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m memory_worker report",
        description="Draw what a worker recorded (--record FILE) as one HTML page that needs no network.",
    )
    parser.add_argument("file", metavar="FILE", help="a log written by --record; FILE.1 is read first")
    parser.add_argument("-o", "--out", metavar="OUT", help="the page (default: FILE with .html at its end)")
    return parser


def _lines(source: Path) -> Iterator[str]:
    """Read a record, with the part that was turned over before it where that is of the same worker."""
    earlier = _earlier(source)
    if earlier.is_file() and _who(earlier) == _who(source):
        yield from _of(earlier)
    yield from _of(source)


def _earlier(source: Path) -> Path:
    return source.parent / f"{source.name}.1"  # with_name takes no folder such as "."


def _are_one(path: Path, other: Path) -> bool:
    """Tell whether they lead to one file, by whatever names and links."""
    try:
        return path.samefile(other)
    except OSError:  # one is not there, or can't be looked at: whoever opens it says so
        return False


def _of(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        yield from bounded_lines(file)


def _who(path: Path) -> object:
    """Return who wrote a record, and since when; a record that does not say is only its own."""
    try:
        header = json.loads(next(_of(path), ""))
        return header["pid"], header["started"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return path
