"""What ``benchmarks.garbage`` loads into a worker: it sets Python's collector, and notes each of its pauses."""

import gc
import time
from typing import Any

from worker.plugins import Call, PluginHost

_pauses_us: list[float] = []
_generations = [0, 0, 0]


def register(host: PluginHost) -> None:
    """Add the actions."""
    began = [0.0]

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            began[0] = time.thread_time()  # the collector's own, whoever else has the processor
        else:
            _pauses_us.append((time.thread_time() - began[0]) * 1e6)
            _generations[info["generation"]] += 1

    def set_collector(data: dict[str, Any], _: Call) -> dict[str, Any]:
        """Set it up as a setting says; a worker has frozen what its start made."""
        if not data["frozen"]:
            gc.unfreeze()
        if data["frozen"] == "again":
            gc.freeze()
        if data["thresholds"] is None:
            gc.disable()
        else:
            gc.set_threshold(*data["thresholds"])
        gc.callbacks.append(note)
        return {}

    def read(_data: dict[str, Any], _: Call) -> dict[str, Any]:
        """Tell what it did since."""
        return {
            "pauses_us": _pauses_us,
            "generations": _generations,
            "frozen": gc.get_freeze_count(),
            "tracked": len(gc.get_objects()),
        }

    host.add_action("garbage.set", set_collector)
    host.add_action("garbage.read", read)
