"""Ids that one worker process makes are no other's."""

import pytest

from worker.core.ids import Ids

HERE = Ids("9f3ac2d1")


def test_what_is_made_is_told_apart() -> None:
    """An id holds its number and its process's part, and is read back only by that process."""
    made = HERE.make("alloc", 12)
    assert (made, HERE.number(made), HERE.is_of_another(made)) == ("alloc-12-9f3ac2d1", 12, False)
    other = Ids("00000001")
    assert (other.number(made), other.is_of_another(made)) == (None, True)


def test_counting() -> None:
    """Who counts means this process's; what a worker answered is never taken for another's."""
    assert [HERE.complete(f"{kind}-3") for kind in ("alloc", "plan", "transfer")] == [
        f"{kind}-3-9f3ac2d1" for kind in ("alloc", "plan", "transfer")
    ]
    for given in ("alloc-3-00000001", "alloc-3-9f3ac2d1", "model-3", "alloc-", "alloc-٣", "alloc-3\n", ""):
        assert HERE.complete(given) == given


def test_without_a_part() -> None:
    """Where the same ids are wanted everywhere they are their numbers."""
    assert (Ids().make("plan", 1), Ids().complete("plan-1"), Ids().number("plan-1")) == (
        "plan-1",
        "plan-1",
        1,
    )


@pytest.mark.parametrize("name", ["alloc-01-9f3ac2d1", "alloc--9f3ac2d1", "alloc-1-", "9f3ac2d1", "alloc-1"])
def test_no_id_of_ours(name: str) -> None:
    """What was never made has no number."""
    assert HERE.number(name) is None
