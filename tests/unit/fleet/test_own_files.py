"""Files that several nodes of one machine write."""

import pytest

from worker.fleet.own_files import with_own_files


@pytest.mark.parametrize(
    ("options", "own"),
    [
        (("--record", "run.jsonl"), ("--record", "run.node-2.jsonl")),
        (("--record=/a.b/run",), ("--record=/a.b/run.node-2",)),
        (("--metrics-file", "--record", "--record", "x.y.z"), ("--metrics-file", "--record.node-2", "--record", "x.y.node-2.z")),
        (("--models", "m.yaml", "--metrics-mode", "0644"), ("--models", "m.yaml", "--metrics-mode", "0644")),
        (("--record=", "--record"), ("--record=", "--record")),
    ],
)  # fmt: skip
def test_each_node_has_its_own(options: tuple[str, ...], own: tuple[str, ...]) -> None:
    """What is written has the node's name in it; what is read is everyone's."""
    assert with_own_files(options, "node-2") == own
