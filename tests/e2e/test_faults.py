"""A sample of the n-th failures of everything: the whole of it is ``python -m benchmarks.faults``."""

import os

import pytest

from benchmarks.faults import sample
from protocol.actions import ACTIONS

pytestmark = pytest.mark.skipif(os.name == "nt", reason="fails calls as they are on POSIX")


@pytest.mark.parametrize("seed", range(3))
def test_no_failure_ends_the_worker_or_is_told_wrongly(seed: int) -> None:
    """After any failure there is one truthful reply, nothing is left behind, and the worker lives and ends in order."""
    faults = sample(seed, 200)
    assert faults.broken == []
    assert faults.injections == 200
    reached = {action for action, _, _ in faults.outcomes}
    assert len(reached) > len(ACTIONS) // 2
    assert sum(count for (_, _, outcome), count in faults.outcomes.items() if outcome != "ok") > 0
