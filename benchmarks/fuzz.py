"""Coverage-guided fuzzing of the readers of what others wrote (``fuzz_parsers``), with atheris.

``python -m benchmarks.fuzz [PARSER …] --seconds N``. What breaks one is printed as a line for the parser's file in
``tests/fuzz/corpus``; ``--keep`` writes the file anew: what is there with a note, and the smallest inputs that reach
the most code. Exits with 1 where something broke. Needs ``pip install atheris``.
"""

import argparse
import base64
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.fuzz_parsers import Parser

CORPUS = Path(__file__).resolve().parents[1] / "tests" / "fuzz" / "corpus"
NAMES = ("line", "yaml", "safetensors", "index", "onnx", "torch", "pickle", "gguf")
MOST_BYTES = 64 * 1024
SLOW_SECONDS = 10
MOST_MEMORY_MIB = 1024
"""Of the whole process, of which atheris and pydantic take 150."""
KEPT_BYTES = 4096
"""Of inputs that only reach code, for each parser: a breaking one is always kept."""


def kept(name: str) -> Iterator[tuple[bytes, str]]:
    """Read a parser's file: inputs, each with the note of what it once broke, if it did."""
    path = CORPUS / f"{name}.txt"
    for line in path.read_text(encoding="ascii").splitlines() if path.exists() else ():
        text, _, note = line.partition(" # ")
        yield base64.b64decode(text, validate=True), note


def fuzz(name: str, folder: Path, *options: str) -> str:
    """Run libFuzzer over a parser in a process of its own. Returns what it printed."""
    command = [sys.executable, "-m", "benchmarks.fuzz", "--inside", name, str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return done.stdout + done.stderr


def inside(name: str, folder: str, options: list[str]) -> None:
    """Hand this process over to libFuzzer."""
    import atheris  # noqa: PLC0415 - it takes what is imported after it

    with atheris.instrument_imports(include=["worker", "protocol", "yaml", "benchmarks.fuzz_parsers"]):
        from benchmarks.fuzz_parsers import PARSERS, outcome  # noqa: PLC0415 - instrumented as it is imported

        parser = PARSERS[name]
        outcome(parser, b"", Path(folder))  # what a parser imports when it is first used

    def one(text: bytes) -> None:
        outcome(parser, text, Path(folder))

    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def hunt(name: str, seconds: int, *, keep: bool) -> int:
    """Fuzz a parser for so long. Returns how many inputs broke it."""
    from benchmarks.fuzz_parsers import PARSERS  # noqa: PLC0415 - not before atheris is

    shared = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=shared) as temporary:
        top = Path(temporary)
        seeds, corpus, broken, files = (top / each for each in ("seeds", "corpus", "broken", "files"))
        for each in (seeds, corpus, broken, files):
            each.mkdir()
        for number, text in enumerate([*PARSERS[name].seeds(), *(text for text, _ in kept(name))]):
            (seeds / str(number)).write_bytes(text)
        limits = (f"-max_len={MOST_BYTES}", f"-timeout={SLOW_SECONDS}", f"-rss_limit_mb={MOST_MEMORY_MIB}")
        said = fuzz(
            name, files, f"-max_total_time={seconds}", *limits, f"-artifact_prefix={broken}/",
            "-print_final_stats=1", "-use_value_profile=1", str(corpus), str(seeds),
        )  # fmt: skip
        runs = re.search(r"number_of_executed_units:\s*(\d+)|Done (\d+) runs", said)
        reached = re.findall(r"cov: (\d+)", said)
        print(f"{name:12} {next(filter(None, runs.groups()), '?') if runs else '?':>10} executions, "
              f"{reached[-1] if reached else '?'} branches, {len(list(broken.iterdir()))} broke it", flush=True)  # fmt: skip
        for each in broken.iterdir():
            print("\n".join(said.splitlines()[-40:]))
            print(
                f"{base64.b64encode(each.read_bytes()).decode()} # {each.name.partition('-')[0]}", flush=True
            )
        if keep:
            _write(
                name,
                sorted({each.read_bytes() for each in (*corpus.iterdir(), *seeds.iterdir())}, key=len),
                files,
            )
        return len(list(broken.iterdir()))


def _write(name: str, found: list[bytes], folder: Path) -> None:
    """Keep what once broke it, and of the rest the smallest that reaches lines which no smaller one does."""
    from benchmarks.fuzz_parsers import PARSERS  # noqa: PLC0415 - not before atheris is

    notes = {text: note for text, note in kept(name) if note}
    lines = [f"{base64.b64encode(text).decode()} # {note}" for text, note in notes.items()]
    reached: set[tuple[str, int]] = set()
    left = KEPT_BYTES
    for text in found:
        more = _lines_reached(PARSERS[name], text, folder) - reached
        if more and len(text) <= left and text not in notes:
            left -= len(text)
            reached |= more
            lines.append(base64.b64encode(text).decode())
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="ascii")


def _lines_reached(parser: "Parser", text: bytes, folder: Path) -> set[tuple[str, int]]:
    """Return which lines of the worker's an input reaches. None where it breaks something: that has a note first."""
    from benchmarks.fuzz_parsers import outcome  # noqa: PLC0415 - not before atheris is

    reached: set[tuple[str, int]] = set()

    def trace(frame: Any, _event: str, _argument: Any) -> Any:
        if "/worker/" not in frame.f_code.co_filename:
            return None
        reached.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        outcome(parser, text, folder)
    except Exception:  # noqa: BLE001 - an input that breaks the parser was noted before, and is kept there
        return set()
    finally:
        sys.settrace(None)
    return reached


def main() -> int:
    """Run it. Returns the exit status."""
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3], sys.argv[4:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument(
        "parsers", nargs="*", metavar="PARSER", choices=[*NAMES, []], help=f"only these of {NAMES}"
    )
    parser.add_argument("--seconds", type=int, default=60, help="for each parser (default 60)")
    parser.add_argument("--keep", action="store_true", help="write tests/fuzz/corpus anew")
    arguments = parser.parse_args()
    if find_spec("atheris") is None:
        print("it needs atheris: pip install atheris", file=sys.stderr)
        return 2
    broke = sum(hunt(each, arguments.seconds, keep=arguments.keep) for each in arguments.parsers or NAMES)
    return 1 if broke else 0


if __name__ == "__main__":
    sys.exit(main())
