"""What is known of a model in an engine's process: what giving its working memory back costs, as it was measured."""

from typing import cast

from worker.backends.engines.base import EngineLaunch
from worker.backends.engines.meter import Meter
from worker.backends.engines.opened_model import OpenedModel
from worker.backends.isolation.child_process import ChildProcess


def _opened() -> OpenedModel:
    nothing = (
        cast("ChildProcess", None),
        cast("EngineLaunch", None),
        cast("Meter", None),
    )  # not asked for a price
    return OpenedModel(*nothing, 100, 0, 100)


def test_growing_again_is_what_the_first_work_after_a_shrink_takes_above_the_usual() -> None:
    """It is measured once a shrink, is no part of what is usual, and is unknown where nothing is known of that."""
    model = _opened()
    model.shrunk(3.0, 10)
    model.worked(90.0)
    assert (model.footprint.shrink_ms, model.footprint.regrow_ms) == (3, None)
    for took_ms in (10.0, 12.0, 11.0, 500.0, 11.0):
        model.worked(took_ms)
    assert model.footprint.regrow_ms is None
    model.shrunk(4.0, 10)
    model.worked(51.0)
    model.worked(11.0)
    assert (model.footprint.shrink_ms, model.footprint.regrow_ms) == (4, 40)
    model.shrunk(4.0, 10)
    model.worked(7.0)
    assert model.footprint.regrow_ms == 0, "quicker than usual: nothing to pay"
