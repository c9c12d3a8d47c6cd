"""Whether what does not fit now ever could."""

import pytest

from protocol.results import Limits
from protocol.vocabulary import Source
from worker.core.records import Readings
from worker.policy.admission import can_ever_fit
from worker.policy.pressure import DEFAULT_LIMITS

THRESHOLDS = DEFAULT_LIMITS.thresholds
NONE = Limits(None, 0, THRESHOLDS)


def readings(budget: int | None, source: Source | None = Source.NVML, total: int | None = 1000) -> Readings:
    return Readings(
        total_bytes=total, budget_bytes=budget, budget_source=source, used_bytes=990, process_used_bytes=None,
        free_bytes=10, largest_block_bytes=1, resident_bytes=0, cached_bytes=0, fragmentation=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("size", "budget", "limits", "staying", "fits"),
    [
        (1000, 1000, NONE, 0, True),
        (1001, 1000, NONE, 0, False),
        (1000, 1000, NONE, 1, False),
        (999, 1000, NONE, 1, True),
        (900, 1000, Limits(None, 100, THRESHOLDS), 0, True),
        (901, 1000, Limits(None, 100, THRESHOLDS), 0, False),
        (501, 1000, Limits(500, 0, THRESHOLDS), 0, False),
        (2**63 - 1, None, NONE, 0, True),
    ],
)
def test_what_is_larger_than_the_budget_and_what_stays_leave_never_fits(
    size: int, budget: int | None, limits: Limits, staying: int, fits: bool
) -> None:
    """What is free now has no say: that changes. Without figures nothing is said to be hopeless."""
    assert can_ever_fit(size, readings(budget), limits, staying) is fits


@pytest.mark.parametrize("source", [Source.DXGI, Source.DXCORE])
def test_a_budget_that_the_system_moves_is_not_final(source: Source) -> None:
    """What another program takes from it now may come back: the device's size counts."""
    assert can_ever_fit(900, readings(200, source), NONE, 0)
    assert not can_ever_fit(1001, readings(200, source), NONE, 0)
    assert not can_ever_fit(900, readings(200, source, None), NONE, 0)
