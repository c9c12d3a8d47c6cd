"""Receipts: each step's share of what a process gave back, out of readings before and after."""

from itertools import product

import pytest

from worker.backends.engines.meter import Steps


def steps_of(*readings: int | None, empty: int | None = 0) -> Steps:
    left = iter(readings)
    steps = Steps(lambda: next(left), empty)
    for number in range(1, len(readings)):
        steps.add(str(number))
    return steps


def returned_by(steps: Steps) -> list[int | None]:
    return [each.returned_bytes for each in steps.done]


@pytest.mark.parametrize(
    ("readings", "by_step", "returned"),
    [
        ((100, 40, 30), [60, 10], 70),
        ((100, 120, 90), [0, 10], 10),  # what a step took is given back first
        ((100, 90, 95), [5, 0], 5),  # what was taken again did not come back
        ((100, 90, 110), [0, 0], 0),
        ((680, 815, 680), [0, 0], 0),
        ((100, None, 70), [None, 30], 30),
        ((100, 80, None), [20, None], None),
        ((None, 80, 70), [None, None], None),
    ],
)
def test_steps_say_what_each_returned(readings, by_step, returned):
    """Never less than nothing; one without a reading is unknown, and what it returned shows at the next."""
    steps = steps_of(*readings)
    assert (returned_by(steps), steps.returned) == (by_step, returned)


def test_steps_add_up_to_what_was_returned():
    """Whatever a process took and gave back between them."""
    for readings in product(range(4), repeat=5):
        steps = steps_of(*readings)
        by_step = returned_by(steps)
        assert min(by_step) >= 0
        assert sum(by_step) == steps.returned == max(0, readings[0] - readings[-1])


def test_what_the_process_took_itself_is_no_models():
    """Its end returns what models took, and no more."""
    steps = steps_of(100, 90, empty=30)
    assert steps.kept_share() == 60 / 70
    steps.end("its process ended")
    assert (returned_by(steps), steps.returned, steps.kept_share()) == ([10, 60], 70, 0)
