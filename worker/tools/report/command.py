"""``python -m memory_worker report FILE``: what was recorded, as one HTML page."""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from worker.tools.output import Claim, as_it_is, put

_BAD_INPUT = 2


def main(argv: list[str], claim: Claim = as_it_is) -> int:
    """Run the command: 0, or 2 with one line on stderr where a file cannot be read or written."""
    arguments = _parser().parse_args(argv)
    printed_to = claim()
    from worker.tools.report.page import render  # noqa: PLC0415 - not for --help
    from worker.tools.report.recording import RecordingError, read_recording  # noqa: PLC0415

    source = Path(arguments.file)
    out = Path(arguments.out) if arguments.out is not None else source.with_suffix(".html")
    try:
        page = render(read_recording(_lines(source)), source.name)
        out.write_text(page, encoding="utf-8", newline="\n")
    except (OSError, RecordingError) as error:
        print(f"{source}: {error}", file=sys.stderr)
        return _BAD_INPUT
    return put(printed_to, f"{out}: {len(page):,} characters")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m memory_worker report",
        description="Draw what a worker recorded (--record FILE) as one HTML page that needs no network.",
    )
    parser.add_argument("file", metavar="FILE", help="a log written by --record; FILE.1 is read first")
    parser.add_argument("-o", "--out", metavar="OUT", help="the page (default: FILE with .html at its end)")
    return parser


def _lines(source: Path) -> Iterator[str]:
    """Read a record, with the part that was turned over before it where that is of the same worker."""
    earlier = source.with_name(source.name + ".1")
    if earlier.is_file() and _who(earlier) == _who(source):
        with earlier.open(encoding="utf-8-sig", errors="replace") as lines:
            yield from lines
    with source.open(encoding="utf-8-sig", errors="replace") as lines:
        yield from lines


def _who(path: Path) -> object:
    """Return who wrote a record, and since when; a record that does not say is only its own."""
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        try:
            header = json.loads("".join(itertools.islice(lines, 1)))
            return header["pid"], header["started"]
        except (ValueError, KeyError, TypeError):
            return path
