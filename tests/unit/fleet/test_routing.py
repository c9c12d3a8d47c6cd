"""Every action of the contract has its row, and what every node answers has its merge."""

import pytest

from protocol.actions import ACTIONS, Action
from protocol.params import PingParams
from protocol.results import PingResult
from worker.fleet import routing
from worker.fleet.merging import MERGES
from worker.fleet.routing import ROUTES, Where, check_complete


def test_the_table_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is added to the contract and not here keeps the gateway from starting."""
    check_complete()
    monkeypatch.setitem(ACTIONS, "memory.new", Action(PingParams, PingResult))
    with pytest.raises(TypeError, match=r"memory\.new"):
        check_complete()


def test_what_names_a_node_is_a_field() -> None:
    """The field by which an action is routed is one of its own, and one that names something on a node."""
    for name, route in ROUTES.items():
        if route.where is Where.ONE:
            assert route.field in ACTIONS[name].params.model_fields, name
            assert route.field in routing.NAMING, name


def test_every_answer_of_all_nodes_is_merged() -> None:
    """And no other."""
    assert MERGES.keys() == {name for name, route in ROUTES.items() if route.where is Where.EVERY}
