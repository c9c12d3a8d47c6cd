"""A plugin that makes the machine as small as its host: of its memory, what the host's process really takes is in use.

MEMORY_WORKER_MACHINE_BYTES is the size of it. So a host's own memory is all that matters, whatever else runs here.
"""

import os

import psutil

from worker.plugins import PluginHost
from worker.telemetry import system


def register(host: PluginHost) -> None:
    """Put the machine in the place of the real one."""
    total, of_host = int(os.environ["MEMORY_WORKER_MACHINE_BYTES"]), psutil.Process(os.getppid())

    def machine() -> tuple[int, int]:
        try:
            used = of_host.memory_info().rss
        except psutil.NoSuchProcess:
            used = 0
        return total, max(0, total - used)

    system._machine = machine
