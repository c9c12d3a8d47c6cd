"""Whose figure each is, how old, and what child processes take."""

import psutil

from tests.e2e.process import MIB, eventually, worker
from tests.e2e.simulated import place


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


def test_memory_that_is_demoted() -> None:
    """What the device has no place for is told of: bytes, a signal, a level, events; and no headroom is where it was."""
    with worker("--simulated-device", "64MiB,local_bytes=32MiB") as started:
        started.call("worker.subscribe", {"events": ["memory.demotion_changed", "memory.pressure_changed"]})
        names = [
            started.call("memory.allocate", {"size_bytes": size * MIB, "device_id": "sim:0"})["allocation_id"]
            for size in (24, 16)
        ]
        (device,) = started.call("memory.get_status", {"device_id": "sim:0"})["devices"]
        assert (device["process_used_bytes"], device["process_demoted_bytes"]) == (32 * MIB, 8 * MIB)
        assert device["demoted_bytes"] == 8 * MIB
        assert device["unattributed_bytes"] == 0
        (pressure,) = started.call("memory.get_pressure", {"device_id": "sim:0"})["devices"]
        demoted = next(each for each in pressure["signals"] if each["name"] == "demoted_percentage")
        assert (demoted["value"], demoted["level"]) == (20.0, "high")
        assert pressure["pressure_level"] == "high"
        started.call("memory.deallocate", {"allocation_id": names[0]})

        def told() -> bool:
            rows = [each["data"] for each in started.events("memory.demotion_changed")]
            return rows == [
                {"device_id": "sim:0", "previous_bytes": 0, "demoted_bytes": 8 * MIB},
                {"device_id": "sim:0", "previous_bytes": 8 * MIB, "demoted_bytes": 0},
            ]

        eventually(told, "both changes")
        assert "memory_worker_device_process_demoted_bytes" in started.call("memory.get_metrics")["text"]


def test_memory_that_is_the_machines() -> None:
    """An integrated device gets no more than both have, and its bytes are told to be the CPU's."""
    with worker("--simulated-device", "1TiB,integrated=1") as started:
        cpu, device = started.call("memory.get_status")["devices"]
        assert (cpu["shared_with"], device["shared_with"]) == (None, "cpu")
        assert device["available_bytes"] <= cpu["available_bytes"] + 64 * MIB
        refused = started.refused("memory.allocate", {"size_bytes": cpu["total_bytes"], "device_id": "sim:0"})
        assert refused["code"] in {"out_of_memory", "limit_exceeded"}


def test_a_cap_on_the_machines_memory_holds_what_integrated_devices_have_of_it() -> None:
    """What is allocated on either counts towards it, once."""
    with worker("--simulated-device", "1GiB,integrated=1", "--limit-bytes", "96MiB") as started:
        first = place(started, 64 * MIB, "sim:0")
        cpu, device = started.call("memory.get_status")["devices"]
        assert (cpu["available_bytes"], device["available_bytes"]) == (32 * MIB, 32 * MIB)
        assert (cpu["allocated_bytes"], device["allocated_bytes"]) == (0, 64 * MIB)
        for device_id in ("cpu", "sim:0"):
            refused = started.refused("memory.allocate", {"size_bytes": 33 * MIB, "device_id": device_id})
            assert refused["code"] == "limit_exceeded"
        place(started, 32 * MIB)
        started.call("memory.deallocate", {"allocation_id": first})
        assert [each["available_bytes"] for each in started.call("memory.get_status")["devices"]] == [
            64 * MIB
        ] * 2


def test_who_is_on_a_device() -> None:
    """The processes with memory there, by name and bytes, where they are asked for and a source lists them."""
    with worker("--simulated-device", "64MiB", "--isolate", "simulated") as started:
        started.call("memory.allocate", {"size_bytes": MIB, "device_id": "sim:0"})
        (child,) = psutil.Process(started.pid).children()
        there = [{"pid": child.pid, "name": child.name(), "bytes": MIB, "ours": True}]

        def listed() -> bool:
            cpu, device = started.call("memory.get_status", {"include_processes": True})["devices"]
            assert cpu["processes"] is None
            assert device["processes"] in (
                None,
                there,
            )  # it is waited for a quarter of a second, and no longer
            return device["processes"] == there

        eventually(listed, "who is there")
        assert started.call("memory.get_status")["devices"][1]["processes"] is None
