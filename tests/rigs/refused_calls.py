"""A process that the system refuses calls, as an older kernel or a container's filter does.

As a program: ``refused_calls.py ERROR CALL,CALL -- COMMAND``, which takes the place of this process.
"""

import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

NUMBERS = {
    "madvise": 28, "fallocate": 285, "eventfd2": 290, "prlimit64": 302, "memfd_create": 319, "clone3": 435,
    "pidfd_open": 434, "statfs": 137, "fstatfs": 138,
}  # fmt: skip
"""Of x86-64."""
_ARCHITECTURE, _NUMBER = 4, 0
"""Where struct seccomp_data has them."""
_X86_64 = 0xC000003E
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2


def refusing(code: int, *calls: str) -> tuple[str, ...]:
    """Return the words that start a command to which these calls are refused; none where that can't be had here."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return ()
    return (sys.executable, str(Path(__file__)), str(code), ",".join(calls), "--")


def _refuse(code: int, calls: list[str]) -> None:
    """Refuse them to this process, and to all that it starts."""
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _X86_64),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for call in calls:
        steps += [(_EQUAL, 0, 1, NUMBERS[call]), (_RETURN, 0, 0, _ERROR | code)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    text = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(text))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(_SECCOMP, _FILTER, program, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    _refuse(int(sys.argv[1]), sys.argv[2].split(","))
    os.execvp(sys.argv[4], sys.argv[4:])  # noqa: S606 - what the test starts
