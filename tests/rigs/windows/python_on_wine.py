"""The worker as Windows Python runs it, under Wine: pipes, text, files, memory calls and native wheels.

Wine is not Windows. It shows what the Windows builds of Python and of the wheels do; timings, drivers and the
machine's memory figures are Wine's own.
"""

import os
import shutil
import signal
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from tests.rigs.windows.fetch import WindowsError, laid_out

_TOOLS = ("wine", "wineserver", "wineboot")
_BOOT_SECONDS = 180
_LAST_WORDS_SECONDS = 2.0
_WAITS = "import subprocess, sys; print(subprocess.call([sys.executable, *sys.argv[2:]]), file=open(sys.argv[1], 'w'))"
"""Run under Windows Python: starts another, waits, and writes the exit code that Windows programs see."""
_RANDOM = "bcryptprimitives.dll"
"""Wheels written in Rust import its one function; Wine 8 does not have it."""


class WindowsPython:
    """A Windows Python in a running Wine prefix."""

    def __init__(self, python: Path, site: Path, environment: dict[str, str]) -> None:
        self.command = ("wine", str(python))
        self._site = site
        self._environment = environment

    def environment(self, *paths: Path) -> dict[str, str]:
        """Return the environment of a process that finds our wheels, and ``paths`` before them."""
        search = ";".join(map(windows_path, (*paths, self._site)))
        return {**self._environment, "PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1"}

    def run(
        self, arguments: Sequence[str], *, root: Path, sent: bytes = b"", timeout: float = 180
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``python ARGUMENTS`` in ``root``. Streams are pipes: a Windows Python dies of plain files.

        Its end is waited for, not the pipes': what Wine itself started meanwhile may hold them open for ever.
        Its exit code is what another Windows program was told: a process that is slow to go after its end, as on
        a busy machine, is killed by Wine's server with SIGKILL or falls to SIGSEGV, and that is all Linux says.
        """
        with (
            TemporaryDirectory() as folder,
            self._waiting_for(arguments, root, Path(folder) / "code") as process,
        ):
            said: dict[int, list[bytes]] = {1: [], 2: []}
            readers = [
                threading.Thread(target=_drain, args=(stream, said[number]), daemon=True)
                for number, stream in ((1, process.stdout), (2, process.stderr))
            ]
            for reader in readers:
                reader.start()
            try:
                process.stdin.write(sent)
                process.stdin.close()
                process.wait(timeout)
            finally:
                process.kill()
            for reader in readers:
                reader.join(_LAST_WORDS_SECONDS)
            code = Path(folder) / "code"
            return subprocess.CompletedProcess(
                arguments,
                int(code.read_text()) if code.exists() else process.returncode,
                b"".join(said[1]),
                b"".join(said[2]),
            )

    def ended(self, process: "subprocess.Popen[bytes]", timeout: float = 60) -> bool:
        """Wait for a process to end, and return whether it ended well, as far as Linux can say: see ``run``."""
        return process.wait(timeout) in (0, -signal.SIGKILL, -signal.SIGSEGV)

    def _waiting_for(self, arguments: Sequence[str], root: Path, code: Path) -> "subprocess.Popen[bytes]":
        return self.popen(["-c", _WAITS, windows_path(code), *arguments], root=root)

    def popen(self, arguments: Sequence[str], *, root: Path) -> "subprocess.Popen[bytes]":
        """Start ``python ARGUMENTS`` with three pipes."""
        pipe: Any = subprocess.PIPE
        return subprocess.Popen(
            (*self.command, *arguments), cwd=root, env=self.environment(root), stdin=pipe, stdout=pipe,
            stderr=pipe, bufsize=0,
        )  # fmt: skip


def _drain(stream: IO[bytes], into: list[bytes]) -> None:
    while piece := os.read(stream.fileno(), 1 << 20):
        into.append(piece)


def windows_path(path: Path) -> str:
    """Return a path as Windows programs under Wine see it: drive Z: is the root."""
    return "Z:" + str(path.resolve()).replace("/", "\\")


@contextmanager
def windows_python() -> Iterator[WindowsPython]:
    """Give a Windows Python, with Wine's server for it. WindowsError says why there can be none."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise WindowsError(f"{', '.join(missing)} not on the path: the packages wine and wine64 have them")
    cache = laid_out()
    prefix = cache / "prefix"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for name in ("VIRTUAL_ENV", "DISPLAY", "PYTEST_ADDOPTS"):
        kept.pop(name, None)
    environment = {
        **kept,
        "WINEPREFIX": str(prefix),
        "WINEARCH": "win64",
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml=",
    }
    fresh = not (prefix / "system.reg").exists()
    prefix.mkdir(exist_ok=True)
    # Wine's services inherit the descriptors of whoever starts them: a pipe of ours would never end.
    _quietly(environment, "wineserver", "-p60")
    _quietly(environment, "wineboot", "-i")
    if fresh:
        version = ("reg", "add", r"HKCU\Software\Wine", "/v", "Version", "/d", "win10", "/f")
        _quietly(environment, "wine", *version)
    if not (prefix / "drive_c/windows/system32" / _RANDOM).exists():
        (cache / "python" / _RANDOM).write_bytes(
            _forwarder(_RANDOM, "ProcessPrng", "advapi32.SystemFunction036")
        )
    try:
        yield WindowsPython(cache / "python" / "python.exe", cache / "site", environment)
    finally:
        _quietly(environment, "wineserver", "-k")


def _quietly(environment: dict[str, str], *command: str) -> None:
    null = subprocess.DEVNULL
    subprocess.run(
        command, env=environment, stdin=null, stdout=null, stderr=null, check=False, timeout=_BOOT_SECONDS
    )


def _forwarder(name: str, function: str, target: str) -> bytes:
    """Make a Windows x64 library whose one function is another library's: headers and an export table, no code."""
    base, file_block = 0x1000, 0x200
    texts = [f"{text}\0".encode() for text in (name, function, target)]
    pointers = base + 40  # behind the export directory: address, name, ordinal, and then the texts
    at = [pointers + 10 + sum(map(len, texts[:index])) for index in range(3)]
    export = struct.pack("<2I2H7I", 0, 0, 0, 0, at[0], 1, 1, 1, pointers, pointers + 4, pointers + 8)
    body = export + struct.pack("<2IH", at[2], at[1], 0) + b"".join(texts)
    file_header = struct.pack("<2H3I2H", 0x8664, 1, 0, 0, 0, 240, 0x2022)
    optional = struct.pack("<H2B5I", 0x20B, 14, 0, 0, file_block, 0, 0, base)
    optional += struct.pack("<Q2I", 0x180000000, base, file_block)
    optional += struct.pack("<6H4I2H", 6, 0, 0, 0, 6, 0, 0, 2 * base, file_block, 0, 2, 0x160)
    optional += struct.pack("<4Q2I", 0x100000, base, 0x100000, base, 0, 16)
    optional += struct.pack("<2I", base, len(body)) + bytes(15 * 8)  # of the data directories, exports alone
    section = struct.pack(
        "<8s6I2HI", b".edata", len(body), base, file_block, file_block, 0, 0, 0, 0, 0x40000040
    )
    start = b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + file_header + optional + section
    return start.ljust(file_block, b"\0") + body.ljust(file_block, b"\0")
