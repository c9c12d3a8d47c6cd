"""A worker for which the machine is two processes: its own, and the one that started it. Whatever others take is not seen.

    python -m benchmarks.relief_worker

So what is measured between critical and low doesn't depend on what else the machine does. All else is as it is: what the
two have comes from the system, at each reading.
"""

import os

import psutil

from worker.telemetry import system

TOTAL_BYTES = 8 * 2**30

_BOTH = (psutil.Process(), psutil.Process(os.getppid()))


def _machine() -> tuple[int | None, int | None]:
    return TOTAL_BYTES, TOTAL_BYTES - sum(each.memory_info().rss for each in _BOTH)


if __name__ == "__main__":
    from worker.__main__ import main

    system._machine = _machine  # noqa: SLF001 - the one place the machine's size is read at; no option sets it
    main()
