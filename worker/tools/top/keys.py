"""Keys as they are pressed, where there is a keyboard; the terminal is as before afterwards, whatever happens."""

import contextlib
import os
import select
import sys
import time
from collections.abc import Iterator
from typing import Protocol


class Keys(Protocol):
    """Waits for keys."""

    def wait(self, seconds: float) -> str:
        """Return what was pressed within the time; empty for nothing."""
        ...


class _NoKeys:
    def wait(self, seconds: float) -> str:
        time.sleep(seconds)
        return ""


@contextlib.contextmanager
def keyboard() -> Iterator[Keys]:
    """Read single keys from standard input while inside."""
    if not sys.stdin.isatty():
        yield _NoKeys()
    elif sys.platform == "win32":
        yield _windows_keys()
    else:
        import termios  # noqa: PLC0415 - not on Windows
        import tty  # noqa: PLC0415 - as above

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        tty.setcbreak(descriptor)
        try:
            yield _PosixKeys(descriptor)
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class _PosixKeys:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def wait(self, seconds: float) -> str:
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if not ready:
            return ""
        pressed = os.read(self._descriptor, 64)
        return pressed.decode(errors="replace") if pressed else "q"  # the terminal is gone


def _windows_keys() -> Keys:
    import msvcrt  # noqa: PLC0415 - Windows alone has it

    class WindowsKeys:
        def wait(self, seconds: float) -> str:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                if msvcrt.kbhit():  # type: ignore[attr-defined,unused-ignore]  # only on Windows
                    return str(msvcrt.getwch())  # type: ignore[attr-defined,unused-ignore]  # only on Windows
                time.sleep(0.02)
            return ""

    return WindowsKeys()
