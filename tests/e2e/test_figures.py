"""Whose figure each is, how old, and what child processes take."""

import psutil

from tests.e2e.process import MIB, eventually, worker


def test_child_processes_are_counted() -> None:
    """A device's process is on the CPU's line, beside the worker's own; without one there is nothing there."""
    with worker("--isolate", "simulated", "--simulated-device", "64MiB") as started:
        started.call("memory.allocate", {"size_bytes": MIB, "device_id": "sim:0"})
        (child,) = psutil.Process(started.pid).children()

        def seen() -> bool:
            data = {"device_id": "cpu", "refresh": True}
            cpu = started.call("memory.get_status", data)["devices"][0]
            assert cpu["process_used_source"] == "os"
            return abs(cpu["child_process_bytes"] - child.memory_info().rss) < 4 * MIB

        eventually(seen, "the child's resident bytes")
        assert "memory_worker_device_child_process_bytes" in started.call("memory.get_metrics")["text"]
    with worker() as started:
        cpu = started.call("memory.get_status", {"device_id": "cpu"})["devices"][0]
        assert cpu["child_process_bytes"] == 0


def test_each_device_has_its_own_age_and_its_sources() -> None:
    """Figures say whose they are, and how old: of each device by itself, and none where there are none."""
    with worker("--simulated-device", "64MiB") as started:
        status = started.call("memory.get_status", {"refresh": True})
        cpu, simulated = status["devices"]
        assert (cpu["total_source"], cpu["used_source"], cpu["process_used_source"]) == ("os", "os", "os")
        sources = (simulated["total_source"], simulated["used_source"], simulated["process_used_source"])
        assert sources == ("config", "ledger", "ledger")
        assert simulated["child_process_bytes"] is None
        assert max(each["age_ms"] for each in status["devices"]) <= status["age_ms"] + 1

        def aged() -> bool:
            rows = started.call("memory.get_status")["devices"]
            return any(row["age_ms"] > 0 for row in rows)

        eventually(aged, "figures that are a millisecond old")
