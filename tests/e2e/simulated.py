"""Simulated devices that copy slowly, and all that a worker says of its own."""

from typing import Any

from tests.e2e.process import Worker

CRAWLING = "256MiB,bandwidth_bytes_per_second=1KiB"


def figures(started: Worker, *, peaks: bool = False) -> dict[str, Any]:
    """Return all that the worker says of its devices, but for ages and what the system says of the process."""
    status = started.call(
        "memory.get_status", {"include_allocations": True, "include_usage_stats": True, "refresh": True}
    )
    of_the_system = (
        "used_bytes",
        "process_used_bytes",
        "unattributed_bytes",
        "available_bytes",
        "utilization_percentage",
    )
    found = {}
    for device in status["devices"]:
        left_out = ("age_ms", *of_the_system) if device["device_id"] == "cpu" else ("age_ms",)
        kept = {key: value for key, value in device.items() if key not in left_out}
        del kept["pressure_level"]  # held for a while after it was high
        kept["allocations"] = [row["allocation_id"] for row in device["allocations"]]
        if not peaks:
            del kept["peak_allocated_bytes"]
            kept["usage"] = [
                {key: value for key, value in group.items() if key != "peak_bytes"}
                for group in device["usage"]
                if group["allocation_count"]
            ]
        found[device["device_id"]] = kept
    return found


def place(started: Worker, size: int, device: str = "cpu", **more: Any) -> str:
    """Allocate; returns the id."""
    data = {"size_bytes": size, "device_id": device, **more}
    allocation_id: str = started.call("memory.allocate", data)["allocation_id"]
    return allocation_id
