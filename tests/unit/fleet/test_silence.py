"""Nodes that answer nothing."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from worker.fleet.silence import SILENT_SECONDS, NodeHangsError, Silence


class Node:
    """A node that answers once the test has it answer."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.asked: list[Future[None]] = []

    def ping(self) -> Any:
        self.asked.append(Future())
        return SimpleNamespace(future=lambda: self.asked[-1])


def test_a_node_hangs_that_answers_nothing_though_it_was_asked() -> None:
    """It is asked once, and hangs until it answers that; whatever else is heard of it has the time begin anew."""
    now = [1000.0]
    node, silence = Node("node-1"), Silence(lambda: now[0])
    now[0] += 60
    assert silence.why(node) is None  # nobody asked
    silence.ask(node)
    now[0] += SILENT_SECONDS - 1
    silence.ask(node)
    silence.heard(node)
    now[0] += SILENT_SECONDS - 1
    assert silence.nodes() == frozenset()
    silence.heard(node, at=now[0] - 60)  # the directory tells late
    now[0] += 1
    assert silence.nodes() == {"node-1"}
    with pytest.raises(NodeHangsError, match="node-1 has answered nothing for 5 s"):
        silence.check(node)
    assert len(node.asked) == 1
    node.asked[0].set_result(None)
    silence.check(node)
    silence.ask(node, since=now[0] - SILENT_SECONDS)
    assert silence.nodes() == {"node-1"}


def test_a_node_whose_process_is_gone_does_not_hang() -> None:
    """That is told of elsewhere: it is lost."""
    node, silence = Node("node-1"), Silence(lambda: 0.0)
    silence.ask(node, since=-60.0)
    node.asked[0].set_exception(RuntimeError("the actor died"))
    silence.check(node)
