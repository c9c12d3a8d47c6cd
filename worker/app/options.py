"""The command line. Standard library only: it is read before the descriptors are claimed."""

import argparse
import math
import os
from contextlib import suppress
from typing import Any, NoReturn

from protocol.vocabulary import DEFAULT_MAX_FRAME_BYTES, DEFAULT_MAX_INFLIGHT, PressureLevel, SharedMemoryKind
from worker import __version__
from worker.core.output import Parser
from worker.core.text import nearest, printable, size_bytes

_AUTO_LEVELS = (PressureLevel.MODERATE, PressureLevel.HIGH, PressureLevel.CRITICAL)
_MOST_FRAMES = 64
_KNOBS = {
    "bandwidth_bytes_per_second",
    "latency_ms",
    "fail_allocation",
    "fail_copy",
    "corrupt_copy",
    "stall_copy",
    "lose_at",
    "pooled",
    "local_bytes",
    "integrated",
}

SHARED_MEMORY_VARIABLE = "MEMORY_WORKER_SHARED_MEMORY"
"""Set by a host that can open sections: a worker too old for them goes on with files."""

_COMMANDS = ("serve", "doctor", "broker")

COMMANDS_OF_THEIR_OWN = ("fleet", "simulate", "report", "top", "mcp")
"""They are the first argument, and read the rest by themselves."""

_EPILOG = """\
Try it: paste this line into a shell. One JSON object a line goes in, one comes back for each.

  echo '{"request_id": "1", "action": "memory.get_status"}' | python -m memory_worker

  python -m memory_worker doctor                  what can and can't be measured on this machine, and why
  python -m memory_worker < examples/conversation.jsonl      a walk through the operations
  python -m memory_worker report FILE.jsonl       what --record FILE.jsonl saw, as one HTML page
  python -m memory_worker top                     the same as it happens, in a terminal, of a worker with --monitor-socket
  python -m memory_worker mcp                     questions about such a worker, for editors and agents
  python -m memory_worker broker --models FILE    makes room among the model servers that FILE names, beside them
  python -m memory_worker fleet --nodes 3         several machines as one (Linux, the extra fleet); see docs/fleet.md
  python -m memory_worker simulate TRACE.jsonl    what each eviction policy would have cost on a trace of model uses

A simulated device takes knobs after its size, for hosts without a GPU and for faults on demand:

  --simulated-device 8GiB,bandwidth_bytes_per_second=1GiB,latency_ms=2
  --simulated-device 1GiB,fail_allocation=3,fail_copy=2,corrupt_copy=1,stall_copy=1,lose_at=9

fail_*, corrupt_copy and stall_copy name the n-th allocation or copy (a copy is one 8 MiB chunk);
a stalled copy waits until it is cancelled; lose_at counts allocations and copies together.
local_bytes=6GiB has what is beyond demoted to the system's memory; integrated=1 shares the machine's own.
pooled=1 keeps what was freed until the device's process ends, as DirectML's tiles do. With --isolate
simulated a copy is one 2 MiB piece, and the counts begin again with each process.
"""


class Arguments(argparse.Namespace):
    """What was asked for."""

    command: str
    json: bool
    limit_bytes: int | None
    default_device: str | None
    simulated_device: list[dict[str, int | float]]
    isolate: list[str]
    directml_python: str | None
    directml_allocator: str | None
    max_frame_bytes: int
    max_inflight: int
    pool_bytes: int | None
    shared_folder: str | None
    shared_memory: SharedMemoryKind
    store_folder: str | None
    documents_root: str | None
    documents_embedder: str | None
    models: str | None
    model_root: str | None
    record: str | None
    metrics_file: str | None
    metrics_mode: int
    metrics_seconds: float
    monitor_socket: str | None
    plugin: list[str]
    auto_optimize: PressureLevel | float | None
    trace_python: int | None
    deterministic: bool
    log_level: str | None
    """None for what the command is for: warnings, and of a broker what it does."""

    @property
    def watched(self) -> bool:
        """Whether anything beside the host follows what happens."""
        return any(each is not None for each in (self.record, self.metrics_file, self.monitor_socket))


_COUNT_DIGITS = 9


def size(text: str) -> int:
    """Read ``"1048576"`` or ``"8GiB"`` as bytes. ArgumentTypeError for anything else, or none at all."""
    try:
        return size_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def simulated_device(text: str) -> dict[str, int | float]:
    """Read ``BYTES[,KNOB=VALUE]...``. ArgumentTypeError names what is wrong."""
    total, *knobs = text.split(",")
    device: dict[str, int | float] = {"total_bytes": size(total)}
    for knob in knobs:
        name, equals, value = knob.partition("=")
        if name not in _KNOBS or not equals:
            message = f"{knob!r} is not a knob; there are {', '.join(sorted(_KNOBS))}"
            raise argparse.ArgumentTypeError(message)
        device[name] = _milliseconds(value) if name == "latency_ms" else size(value)
    return device


def number(text: str, lowest: float, most: float, what: str, unit: str = "") -> float:
    """Read a number within bounds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not lowest <= value <= most:
        message = f"{text!r} is not {what} from {lowest} to {most} {unit}".rstrip()
        raise argparse.ArgumentTypeError(message)
    return value


def _milliseconds(text: str) -> float:
    return number(text, 0, 3_600_000, "a time", "ms")  # an hour is longer than any device takes


def _seconds(text: str) -> float:
    return number(text, 0.1, 3600, "a time", "s")  # a collector never comes more often


def _shared_memory(text: str) -> SharedMemoryKind:
    try:
        return SharedMemoryKind(text)
    except ValueError:
        message = f"{text!r} is none of {', '.join(SharedMemoryKind)}"
        raise argparse.ArgumentTypeError(message) from None


def _trigger(text: str) -> PressureLevel | float:
    """Read a level, or a percentage with its sign or without."""
    if text in _AUTO_LEVELS:
        return PressureLevel(text)
    try:
        percentage = float(text.removesuffix("%"))
    except ValueError:
        percentage = math.nan
    if not 0 < percentage <= 100:  # noqa: PLR2004 - the whole is 100 percent
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of {', '.join(_AUTO_LEVELS)}, nor a percentage above 0 and up to 100"
        )
    return percentage


def _mode(text: str) -> int:
    readable = {0o600, 0o640, 0o644, 0o660, 0o664, 0o666, 0o400, 0o440, 0o444}
    mode = int(text, 8) if text.isdecimal() and set(text) <= set("01234567") else -1
    if mode not in readable:
        message = f"{text!r} is not a file's mode in octal digits, such as 0600, 0640 or 0644"
        raise argparse.ArgumentTypeError(message)
    return mode


def _frames(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_FRAMES:
        message = f"{text!r} is not a number of frames from 1 to {_MOST_FRAMES}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def _place(text: str) -> str:
    """Refuse a path that is empty, which is what a shell makes of a variable that is not set: it is no folder to write into."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: name a place, or leave the option out")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text[:_COUNT_DIGITS]) > 0 or len(text) > _COUNT_DIGITS:
        message = f"{text!r} is not a whole number from 1 to {10**_COUNT_DIGITS - 1}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def _at_least(lowest: int) -> "type[int]":
    def read(text: str) -> int:
        value = size(text)
        if value < lowest:
            message = f"{text} is less than {lowest}"
            raise argparse.ArgumentTypeError(message)
        return value

    return read  # type: ignore[return-value]  # argparse calls it as it would a type


def _command(text: str) -> str:
    if text in _COMMANDS:
        return text
    if text in COMMANDS_OF_THEIR_OWN:
        raise argparse.ArgumentTypeError(f"{text} comes first, and has options of its own: see {text} --help")
    known = (*_COMMANDS, *COMMANDS_OF_THEIR_OWN)
    near = nearest(text, known)
    message = f"there is no command {printable(text)}; " + (
        f"did you mean {near}?" if near else f"there are {', '.join(known)}"
    )
    raise argparse.ArgumentTypeError(message)


def parse(arguments: list[str]) -> Arguments:
    """Read the command line. Exits with a message on stderr, and 2, if it cannot be understood."""
    parser = Parser(
        prog="python -m memory_worker",
        usage="python -m memory_worker [OPTION...] [COMMAND]",
        description="Knows, in bytes, where an AI application's memory is, and makes room before it runs out."
        " Reads JSON requests from stdin, one a line, and answers each on stdout.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    known = ["--help"]

    def add(*names: str, **more: Any) -> None:
        known.extend(names)
        parser.add_argument(*names, **more)

    # fmt: off
    add("command", nargs="?", type=_command, metavar="COMMAND", default="serve",
        help="serve, doctor or broker (default serve)")
    add("--json", action="store_true",
        help="doctor's findings as one JSON object")
    add("--limit-bytes", type=size, metavar="BYTES",
        help="most that may be allocated on the CPU")
    add("--default-device", metavar="ID",
        help="device of requests that name none (default: the first accelerator, else cpu)")
    add("--simulated-device", type=simulated_device, action="append", default=[], metavar="BYTES[,KNOB=VALUE]",
        help="add sim:0, sim:1 ...; repeatable")
    add("--isolate", action="append", default=[], choices=("simulated", "cuda", "xpu"),
        help="run devices of this kind in a process of their own, which can be lost and restarted without this"
        " one; repeatable")
    add("--directml-python", type=_place, metavar="PATH",
        help="interpreter that has torch_directml; DirectML always runs in a process of its own (default on"
        " Windows: this one; elsewhere DirectML is not looked for)")
    add("--directml-allocator", choices=("untiled", "tiled"),
        help="which of DirectML's two allocators; see doctor")
    add("--max-frame-bytes", type=_at_least(1024), default=DEFAULT_MAX_FRAME_BYTES, metavar="BYTES",
        help="longest line in or out (default 16MiB)")
    add("--max-inflight", type=_count, default=DEFAULT_MAX_INFLIGHT, metavar="N",
        help=f"requests in flight before more are refused (default {DEFAULT_MAX_INFLIGHT})")
    add("--pool-bytes", type=lambda text: 0 if text == "0" else size(text), metavar="BYTES",
        help="most that is kept for reuse where sizes come and go (default 1/16 of the machine's memory;"
        " 0: nothing)")
    add("--shared-folder", type=_place, metavar="FOLDER",
        help="where shared allocations' files are (default a folder of yours in /dev/shm, else in the temp"
        " folder)")
    add("--shared-memory", type=_shared_memory, metavar="KIND",
        default=os.environ.get(SHARED_MEMORY_VARIABLE, SharedMemoryKind.FILE),
        help="what a host maps: file or, on Windows, section: memory of the page file, opened by its name"
        f" (default file, or what {SHARED_MEMORY_VARIABLE} says; the .NET host sets it)")
    add("--store-folder", type=_place, metavar="FOLDER",
        help="where stores that persist have their files; without it none does")
    add("--documents-root", type=_place, metavar="FOLDER",
        help="below which store.load_folder may read folders of texts; without it none is read")
    add("--documents-embedder", metavar="ACTION",
        help="a plugin's action that makes vectors of texts, for stores of documents:"
        ' {"texts": [...]} -> {"vectors": [...]}')
    add("--models", type=_place, metavar="FILE",
        help="YAML that declares the models")
    add("--model-root", type=_place, metavar="FOLDER",
        help="models' files lie below it (default: the folder of --models)")
    add("--record", type=_place, metavar="FILE",
        help="write what happens to it, for python -m memory_worker report, top and simulate; at 64 MiB it"
        " becomes FILE.1")
    add("--metrics-file", type=_place, metavar="PATH",
        help="keep an OpenMetrics text there, for a collector that reads files")
    add("--metrics-mode", type=_mode, default=0o600, metavar="MODE",
        help="who may read it, as for chmod: 0644 for a collector that another user runs (default 0600, as all"
        " files for watchers)")
    add("--metrics-seconds", type=_seconds, default=15.0, metavar="S",
        help="how often (default 15)")
    add("--monitor-socket", nargs="?", const="", metavar="PATH",
        help="let python -m memory_worker top attach, on a socket that only you may use (default: in the"
        " runtime folder); questions only")
    add("--plugin", action="append", default=[], metavar="MODULE",
        help="add the actions of a module of yours; repeatable; see docs/plugins.md")
    add("--auto-optimize", type=_trigger, metavar="LEVEL",
        help="make room unasked where a device stays at this pressure or above (moderate, high, critical, or a"
        " percentage of its budget such as 85): gives up caches, unloads idle models; never what is in use,"
        " pinned or just used")
    add("--trace-python", type=_frames, metavar="N",
        help="trace the worker's own Python objects, N frames deep, so that lines that leak are named; slows"
        " it down")
    add("--deterministic", action="store_true",
        help="fixed clock, process id and machine figures, and one line after the other: the same answers"
        " everywhere, for tests")
    add("--log-level", choices=("debug", "info", "warning", "error"),
        help="JSON lines on stderr (default warning; of broker, info)")
    add("--version", action="version", version=f"memory-worker {__version__}")
    # fmt: on
    for each in arguments:
        name = each.partition("=")[0]
        if name.startswith("--") and name not in known:
            near = nearest(name, known)
            parser.error(
                f"there is no option {printable(name)}" + (f"; did you mean {near}?" if near else "")
            )
    return parser.parse_args(arguments, namespace=Arguments())


def fail(message: str) -> NoReturn:
    """Exit with 2 and a message, as for any argument that cannot be used."""
    text = "\n".join(map(printable, message.split("\n")))
    with suppress(OSError):
        os.write(2, f"memory-worker: error: {text}\n".encode())
    raise SystemExit(2)
