"""``python -m memory_worker top``: attach to a worker, follow a record, or start a worker, and show it until q."""

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from worker.core.output import Parser, not_written, put
from worker.tools.attached import SourceError, only_socket, socket_of, wait_for_socket
from worker.tools.report.recording import MALFORMED
from worker.tools.top.sources import RecordSource, SocketSource, Source

if TYPE_CHECKING:
    from worker.tools.top.snapshot import Snapshot

_BAD_INPUT = 2
_START_SECONDS = 30.0
_LOOK_SECONDS = 0.1
"""How soon a key or another size of the window is noticed."""


def main(argv: list[str]) -> int:
    """Run the command: 0, or with one line on stderr 2 where there is nothing to show, and 1 where it can't be written."""
    own, options = argv, None
    if "--" in argv:
        own, options = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    arguments = _parser().parse_args(own)
    try:
        import rich  # noqa: F401, PLC0415 - an extra; the rest of the worker does without
    except ImportError:
        print("top draws with rich: pip install 'memory-worker[top]'", file=sys.stderr)
        return _BAD_INPUT
    # SIGTERM and a terminal that goes away leave by the same way out as Ctrl-C: the screen is given back. Ctrl-C itself
    # may be ignored by whoever started this, as a script's background jobs are; Python leaves that so.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        with _source(arguments, options) as source:
            if arguments.once or not sys.stdout.isatty():
                return _show_once(source)
            _show(source, arguments.seconds)
    except SourceError as error:
        print(f"python -m memory_worker top: {error}", file=sys.stderr)
        return _BAD_INPUT
    except OSError as error:  # a source's are told by it
        return not_written(sys.stdout, error)
    except MALFORMED as error:
        said = f"what it reads is no worker's ({type(error).__name__}: {error})"
        print(f"python -m memory_worker top: {said}", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m memory_worker top",
        description="Show a worker's devices, owners, models and decisions as they change. q quits.",
        usage="python -m memory_worker top [--attach PID|SOCKET | --record FILE | -- WORKER OPTIONS...]",
        epilog="Without any of them it shows the only worker of yours that has --monitor-socket. Where there is none, and after --,"
        " a worker is started, with the options after --, and ended with the view.",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--attach", metavar="PID|SOCKET", help="a worker that has --monitor-socket")
    which.add_argument("--record", metavar="FILE", help="what a worker writes with --record FILE")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="how often (default 1)")
    parser.add_argument("--once", action="store_true", help="one screen of text, then exit")
    return parser


@contextlib.contextmanager
def _source(arguments: argparse.Namespace, options: list[str] | None) -> Iterator[Source]:
    """Open what is to be shown. ``options`` are those after ``--``; None without it."""
    if arguments.record is not None:
        source: Source = RecordSource(Path(arguments.record))
    elif arguments.attach is not None:
        source = SocketSource(socket_of(arguments.attach))
    elif options is None and (there := only_socket()) is not None:
        source = SocketSource(there)
    else:
        with _started(options or []) as path:
            source = SocketSource(path)
            with contextlib.closing(source):
                yield source
        return
    with contextlib.closing(source):
        yield source


@contextlib.contextmanager
def _started(options: list[str]) -> Iterator[Path]:
    """Start a worker that has no other client; it ends with its input."""
    with tempfile.TemporaryDirectory(prefix="memory-worker-top-") as folder:  # made with mode 0700
        path = Path(folder) / "worker.sock"
        command = [sys.executable, "-m", "memory_worker", *options, "--monitor-socket", str(path)]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)  # noqa: S603 - what whoever runs it has named
        try:
            _wait_until_it_listens(worker, path)
            yield path
        finally:
            if worker.stdin is not None:
                worker.stdin.close()
            worker.wait()


def _wait_until_it_listens(worker: "subprocess.Popen[bytes]", path: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            wait_for_socket(path, 0.1)
        except SourceError:
            code = worker.poll()
            if code is not None:
                raise SourceError(f"the worker ended with {code} at its start") from None
            if time.monotonic() > until:
                raise
        else:
            return


def _show_once(source: Source) -> int:
    from rich.console import Console  # noqa: PLC0415 - an extra, and what needs it

    from worker.tools.top.view import View  # noqa: PLC0415 - an extra, and what needs it

    console = Console()
    with console.capture() as screen:
        console.print(View(source.snapshot()))
    return put(sys.stdout, screen.get().removesuffix("\n"))


def _show(source: Source, seconds: float) -> None:
    from rich.console import Console  # noqa: PLC0415 - an extra, and what needs it
    from rich.live import Live  # noqa: PLC0415 - an extra, and what needs it

    from worker.tools.top.keys import keyboard  # noqa: PLC0415 - an extra, and what needs it
    from worker.tools.top.view import View  # noqa: PLC0415 - an extra, and what needs it

    console = Console()
    shown: Snapshot = source.snapshot()
    with keyboard() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        paused, due, drawn = False, time.monotonic() + seconds, None
        while True:
            if drawn != (shown, paused, console.size):
                drawn = (shown, paused, console.size)
                live.update(View(shown, paused=paused), refresh=True)
            pressed = keys.wait(min(_LOOK_SECONDS, seconds))
            if {"q", "Q", "\x03"} & set(pressed):
                return
            if " " in pressed:
                paused = not paused
            if not paused and not shown.ended and time.monotonic() >= due:
                shown, due = source.snapshot(), time.monotonic() + seconds
