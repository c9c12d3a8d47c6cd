"""How a process ended, in words that a user can act on."""

import signal

_STATUS_FROM = 0xC0000000
_ABORT = 3
_KILL = 9

_STATUSES = {
    0xC0000005: "access violation",
    0xC0000006: "in-page I/O error",
    0xC0000017: "not enough memory",
    0xC000001D: "illegal instruction",
    0xC0000094: "integer division by zero",
    0xC00000FD: "stack overflow",
    0xC000012D: "commit limit reached",
    0xC0000135: "a DLL was not found",
    0xC0000139: "a DLL lacks an entry point",
    0xC000013A: "Ctrl-C",
    0xC0000142: "a DLL failed to start",
    0xC0000374: "heap corruption",
    0xC0000409: "abort, or a stack buffer overrun",
    0xC06D007E: "a module was not found",
    0xC06D007F: "a procedure was not found",
    0xE06D7363: "an uncaught C++ exception",
}
"""What Windows gives as the exit code of a process that crashed, from ntstatus.h."""


def ending(exit_code: int, *, windows: bool) -> str:
    """Return what an exit code means: ``died of SIGSEGV (segmentation fault)``."""
    if windows:
        return _windows_ending(exit_code & 0xFFFFFFFF)
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        number = signal.Signals(-exit_code)
    except ValueError:
        return f"died of signal {-exit_code}"
    said = (signal.strsignal(number) or "").lower()
    if number == _KILL:
        said += ": by the system where memory runs out, or from outside"
    return f"died of {number.name} ({said})" if said else f"died of {number.name}"


def _windows_ending(code: int) -> str:
    if code == _ABORT:
        return "ended with exit code 3, as abort() does"
    if code < _STATUS_FROM:
        return f"ended with exit code {code}"
    return f"died of {_STATUSES.get(code, 'an exception')} (0x{code:08X})"
