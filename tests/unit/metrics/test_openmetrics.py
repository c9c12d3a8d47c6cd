"""The metrics are what a real parser reads back, to the figure, in the new format and the old."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_new
from prometheus_client.parser import text_string_to_metric_families as read_old

from protocol.results import GetStatusResult, HostStatus
from protocol.vocabulary import PressureLevel
from tests.rigs.model_files import spec, write_model
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.records import OwnerFlow
from worker.metrics.histogram import Counts, bucket, merge
from worker.metrics.openmetrics import CONTENT_TYPE, Figures, openmetrics
from worker.metrics.totals import ActionTotals, DeviceTotals, GarbageTotals, Totals


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Read a text with the OpenMetrics parser, every rule of it held."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in read_new(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    """Return one sample's value."""
    return samples(text)[f"memory_worker_{name}", frozenset(labels.items())]


@pytest.fixture
def text(tmp_path: Path) -> str:
    """Return the metrics of a machine that did something."""
    write_model(tmp_path / "m.safetensors", 3 * MIB)
    machine = Machine(
        tmp_path,
        SimulatedDevice(64 * MIB),
        models=(spec(tmp_path / "m.safetensors", device_id="sim:0"),),
    )
    machine.load("m")
    machine.allocate("sim:0", 2 * MIB, owner='k"v\\\n')
    machine.memory.allocations.deallocate(machine.allocate("sim:0", 5 * MIB), force=False)
    for duration_us in (40, 90, 900_000, 90_000_000):
        machine.history.record_action(
            "memory.allocate", machine.clock.now_ns(), duration_us * 1000, failed=duration_us == 40
        )
    result = machine.memory.questions.metrics()
    assert result.content_type == CONTENT_TYPE
    machine.close()
    return result.text


def test_figures_are_those_of_the_books(text: str) -> None:
    """Gauges as the status has them, counters as they only ever grow."""
    assert value(text, "device_allocated_bytes", device_id="sim:0") == 2 * MIB
    assert value(text, "device_peak_allocated_bytes", device_id="sim:0") == 7 * MIB
    assert value(text, "device_model_bytes", device_id="sim:0") == 3 * MIB
    assert value(text, "device_made_bytes_total", device_id="sim:0") == 7 * MIB
    assert value(text, "device_allocations_made_total", device_id="sim:0") == 2
    assert value(text, "owner_allocated_bytes", device_id="sim:0", owner='k"v\\\n') == 2 * MIB
    assert value(text, "model_state", model_id="m", state="loaded") == 1
    assert value(text, "model_state", model_id="m", state="failed") == 0
    assert value(text, "device_pressure_level", device_id="sim:0", level="low") == 1
    assert value(text, "action_errors_total", action="memory.allocate") == 1


def test_latencies_are_a_histogram_in_seconds(text: str) -> None:
    """Cumulative, with the sum; the parser holds their order and the last bucket to the count."""
    name = "action_duration_seconds_bucket"
    assert value(text, name, action="memory.allocate", le="5e-05") == 1
    assert value(text, name, action="memory.allocate", le="0.0001") == 2
    assert value(text, name, action="memory.allocate", le="1.0") == 3
    assert value(text, name, action="memory.allocate", le="+Inf") == 4
    assert value(text, "action_duration_seconds_sum", action="memory.allocate") == pytest.approx(90.90013)


def test_the_older_format_reads_the_same_figures(text: str) -> None:
    """What a textfile collector takes: no type that it does not know, no figure that differs."""
    old = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in read_old(text)
        for sample in family.samples
    }
    assert old == samples(text)
    kinds = {line.split()[3] for line in text.splitlines() if line.startswith("# TYPE")}
    assert kinds == {"gauge", "counter", "histogram"}


def test_every_family_has_its_unit_and_its_help(text: str) -> None:
    """By convention: base units in the name, and words for people."""
    families = list(read_new(text))
    assert all(family.documentation and family.name.startswith("memory_worker_") for family in families)
    assert {family.name: family.unit for family in families}["memory_worker_device_used_bytes"] == "bytes"


NAMES = st.text(st.characters(codec="utf-8"), max_size=20)


@given(NAMES, NAMES, st.lists(st.integers(0, 2**40), min_size=1))
def test_any_name_and_any_duration_can_be_read_back(owner: str, action: str, durations: list[int]) -> None:
    """Names come from hosts and plugins: whatever is in them, the text holds."""
    counts: Counts = {}
    for each in durations:
        merge(counts, {bucket(each): 1})
    totals = Totals(
        version="1",
        uptime_seconds=1.0,
        started_seconds=1e9,
        devices=(DeviceTotals("cpu", (OwnerFlow(owner, 1, 1, 1, 1),), 1, 1, 0, 0),),
        actions=(ActionTotals(action, counts, 0, sum(durations)),),
    )
    status = GetStatusResult((), HostStatus(None, None, None), PressureLevel.UNKNOWN, 0)
    text = openmetrics(Figures(status, (), totals))

    read = samples(text)
    assert (
        "memory_worker_owner_allocated_bytes",
        frozenset({("device_id", "cpu"), ("owner", owner)}),
    ) in read
    assert "unknown" not in text


def test_what_is_unknown_has_no_line() -> None:
    """Not 0, and no family without a sample."""
    totals = Totals("1", 1.0, 1e9, (), ())
    status = GetStatusResult((), HostStatus(None, None, None), PressureLevel.UNKNOWN, 0)
    text = openmetrics(Figures(status, (), totals))
    assert "host" not in text
    assert text.endswith("# EOF\n")


def test_pauses_of_the_collector_are_told() -> None:
    """By generation, in seconds; of a worker that does not watch it there is no line."""
    totals = Totals("1", 1.0, 1e9, (), (), GarbageTotals((7, 2, 1), 0.0125, 0.01))
    status = GetStatusResult((), HostStatus(None, None, None), PressureLevel.UNKNOWN, 0)
    read = samples(openmetrics(Figures(status, (), totals)))
    assert read["memory_worker_gc_collections_total", frozenset({("generation", "2")})] == 1
    assert read["memory_worker_gc_pause_seconds_total", frozenset()] == 0.0125
    assert read["memory_worker_gc_longest_pause_seconds", frozenset()] == 0.01
    silent = openmetrics(Figures(status, (), Totals("1", 1.0, 1e9, (), ())))
    assert "gc_" not in silent
