"""A plugin that makes the machine as small as its engines: of its memory, what their processes really take is in use.

MEMORY_WORKER_MACHINE_BYTES is the size of it. So what engines give back is all that matters, whatever else runs here.
"""

import os

import psutil

from tests.rigs.onnx_work import pixels
from worker.plugins import PluginHost
from worker.telemetry import system


def register(host: PluginHost) -> None:
    """Put the machine in the place of the real one, and add ``test.pixels`` of the model ``ocr``."""
    total, me = int(os.environ["MEMORY_WORKER_MACHINE_BYTES"]), psutil.Process()

    def machine() -> tuple[int, int]:
        used = 0
        for each in me.children():
            try:
                used += each.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total, max(0, total - used)

    system._machine = machine
    host.add_model_action("test.pixels", pixels, model="ocr")
