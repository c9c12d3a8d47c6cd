"""One answer out of several nodes': nothing is lost, nothing made up."""

from typing import Any

from worker.fleet.merging import MERGES
from worker.fleet.metrics_text import merged_metrics


def row(model_id: str, state: str, device_id: str | None) -> dict[str, Any]:
    return {"model_id": model_id, "state": state, "device_id": device_id}


def models(*rows: dict[str, Any], level: str = "low") -> dict[str, Any]:
    return {
        "models": list(rows), "pressure_level": level, "pressure_percentage": 1.0, "available_operations": ["x"],
        "optimization_recommendations": [], "last_synchronized": "2026-01-01T00:00:00Z",
    }  # fmt: skip


def test_a_model_has_a_row_where_it_is() -> None:
    """One for each node that has it; a single one where none has, not failed where any could load it."""
    merged = MERGES["memory.get_model_status"](
        {
            "a": models(row("m", "unloaded", None), row("n", "failed", None), row("o", "failed", None)),
            "b": models(
                row("m", "loaded", "b/cpu"),
                row("n", "unloaded", None),
                row("o", "failed", None),
                level="high",
            ),
        }
    )
    assert merged["models"] == [
        row("m", "loaded", "b/cpu"),
        row("n", "unloaded", None),
        row("o", "failed", None),
    ]
    assert merged["pressure_level"] == "high"
    assert merged["available_operations"] == ["x"]


def test_what_one_does_not_know_is_unknown() -> None:
    """A sum over nodes is null where one of them can't say; what is counted is added up."""
    one = {
        "cleared_bytes": 1,
        "returned_bytes": None,
        "allocations_freed": 1,
        "models_unloaded": [],
        "kept": [],
        "allocation_ids": ["a/x"],
    }
    two = {**one, "returned_bytes": 5, "allocation_ids": ["b/y"]}
    merged = MERGES["memory.clear"]({"a": one, "b": two})
    assert (merged["cleared_bytes"], merged["returned_bytes"]) == (2, None)
    assert merged["allocation_ids"] == ["a/x", "b/y"]
    assert MERGES["memory.clear"]({"a": one, "b": {**two, "allocation_ids": None}})["allocation_ids"] is None


def test_recommendations_come_cheapest_first() -> None:
    """By milliseconds per byte, over all nodes; what frees nothing that is known comes last."""
    rows = [
        {"expected_freed_bytes": 10, "cost_ms": 10}, {"expected_freed_bytes": None, "cost_ms": 0},
        {"expected_freed_bytes": 10, "cost_ms": 1},
    ]  # fmt: skip
    merged = MERGES["memory.get_optimization_recommendations"](
        {"a": {"recommendations": rows[:2]}, "b": {"recommendations": rows[2:]}}
    )
    assert merged["recommendations"] == [rows[2], rows[0], rows[1]]


def test_metrics_of_all_nodes_are_one_text() -> None:
    """Samples of a family stand together, described once, and each says whose it is."""
    text = "# HELP m_bytes What is held.\n# TYPE m_bytes gauge\n{}# TYPE n counter\nn_total 1\n# EOF\n"
    merged = merged_metrics({"a": text.format('m_bytes{device="cpu"} 1\n'), "b": text.format("m_bytes 2\n")})
    assert merged == (
        '# HELP m_bytes What is held.\n# TYPE m_bytes gauge\nm_bytes{node="a",device="cpu"} 1\nm_bytes{node="b"} 2\n'
        '# TYPE n counter\nn_total{node="a"} 1\nn_total{node="b"} 1\n# EOF\n'
    )
