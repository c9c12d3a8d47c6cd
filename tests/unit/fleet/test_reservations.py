"""What was placed counts beside a node's view exactly until a view shows it, whatever order words come in."""

from dataclasses import replace

from protocol.vocabulary import ModelState
from worker.fleet.known import KnownNode
from worker.fleet.reservations import NOTHING, Reservations
from worker.fleet.views import Choice, ModelView, NodeView, Step

LOAD = Choice("n1", "cuda:0", 1, Step.MAKES_ROOM, 100.0, 4000.0, 50.0, 8, "")


def node(revision: int, incarnation: str = "a") -> KnownNode:
    return KnownNode(NodeView("n1", incarnation, revision, ()))


def test_a_load_takes_its_bytes_its_turn_and_the_loader_once_however_many_wait_for_it() -> None:
    held = Reservations()
    held.add("1", LOAD, "m", uses=True)
    held.add("2", replace(LOAD, step=Step.LOADING), "m", uses=True)
    holds = held.of("n1")
    assert (holds.bytes_by_device, holds.uses, holds.queue_ms) == (
        {"cuda:0": 8},
        {"cuda:0": 2},
        {"cuda:0": 4000},
    )
    assert holds.loads == {"m": LOAD}
    assert held.of("n2") is NOTHING


def test_bytes_are_no_use_of_a_model() -> None:
    held = Reservations()
    held.add("1", LOAD, None)
    assert (held.of("n1").bytes_by_device, held.of("n1").uses) == ({"cuda:0": 8}, {})


def test_what_was_accepted_counts_until_a_view_shows_it() -> None:
    held = Reservations()
    held.add("1", LOAD, "m")
    held.seen(node(7))  # not answered yet: no view can be told to show it
    assert held.of("n1").loads
    held.accepted("1", "n1", "a", 9)
    held.seen(node(8))
    assert held.of("n1").loads
    held.seen(node(9))
    assert held.of("n1") is NOTHING
    assert not list(held.taken_on())


def test_a_use_counts_until_it_is_answered_whatever_views_show() -> None:
    """They show those of others alone: what one placed itself one knows to the moment."""
    held = Reservations()
    held.add("1", LOAD, "m", uses=True)
    held.accepted("1", "n1", "a", 9)
    held.seen(node(9))
    assert (held.of("n1").uses, held.of("n1").loads, held.of("n1").bytes_by_device) == ({"cuda:0": 1}, {}, {})
    held.answered("1", "n1")
    assert held.of("n1") is NOTHING


def test_a_load_counts_until_the_model_is_seen_there_although_work_with_it_goes_on() -> None:
    held = Reservations()
    held.add("1", LOAD, "m", uses=True)
    loading = ModelView("m", ModelState.LOADING, device_id="cuda:0")
    held.seen(KnownNode(NodeView("n1", "a", 8, (), (loading,))))
    assert (held.of("n1").uses, held.of("n1").loads, held.of("n1").queue_ms) == ({"cuda:0": 1}, {}, {})


def test_a_view_that_shows_it_may_come_before_the_answer() -> None:
    held = Reservations()
    held.add("1", LOAD, "m")
    held.seen(node(9))
    held.accepted("1", "n1", "a", 9)
    assert held.of("n1") is NOTHING


def test_what_went_with_a_nodes_process_counts_no_more() -> None:
    held = Reservations()
    held.add("1", LOAD, "m", uses=True)
    held.accepted("1", "n1", "a", 9)
    assert held.of("n1").uses
    held.seen(node(1, "b"))
    assert held.of("n1") is NOTHING


def test_a_late_word_of_what_is_forgotten_changes_nothing() -> None:
    held = Reservations()
    held.add("1", LOAD, "m", uses=True)
    held.lost("n1")
    held.accepted("1", "n1", "a", 2)
    held.refused("1", "n1")
    assert held.of("n1") is NOTHING
    assert not list(held.taken_on())


def test_views_before_the_latest_refusal_are_stale_and_those_of_another_start_are_not() -> None:
    held = Reservations()
    held.refused("1", "n1", "a", 5)
    held.refused("2", "n1", "a", 4)
    assert held.is_stale(node(4))
    assert not held.is_stale(node(5))
    assert not held.is_stale(node(1, "b"))
    held.seen(node(1, "b"))
    assert not held.is_stale(node(4))
