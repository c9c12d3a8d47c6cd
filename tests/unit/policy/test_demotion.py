"""What was moved out of a device comes back into what is freed, before any of that is headroom."""

from dataclasses import replace

import pytest

from protocol.vocabulary import PressureLevel, Source
from worker.core.records import Readings
from worker.policy.admission import missing_bytes
from worker.policy.model_goals import bytes_to_free
from worker.policy.pressure import DEFAULT_LIMITS, Headroom, LedgerTotals, headroom

HELD = Readings(
    total_bytes=1000, budget_bytes=1000, budget_source=Source.DXGI, used_bytes=1000, process_used_bytes=1000,
    free_bytes=0, largest_block_bytes=None, resident_bytes=1300, cached_bytes=0, fragmentation=None,
    process_demoted_bytes=300,
)  # fmt: skip
"""A device that grants a thousand bytes to a process that holds 1,300."""


def ledger(freed: int = 0) -> LedgerTotals:
    """Return a ledger in which so much was freed since the device was read."""
    return LedgerTotals(1300 - freed, 0, -freed)


def there(freed: int = 0, readings: Readings = HELD) -> Headroom:
    """Return the headroom once so much was freed."""
    return headroom(readings, DEFAULT_LIMITS, ledger(freed))


@pytest.mark.parametrize(("freed", "missing"), [(0, 400), (300, 100), (400, 0)])
def test_a_request_needs_what_is_demoted_freed_too(freed: int, missing: int) -> None:
    """A hundred bytes fit once four hundred were freed: three hundred of them come back from the system's memory."""
    assert missing_bytes(100, HELD, DEFAULT_LIMITS, ledger(freed)) == missing
    assert there(freed).total_bytes == max(0, freed - 300)


def test_what_a_level_needs() -> None:
    """Headroom of a quarter takes the quarter, and what is demoted; what is freed meanwhile counts for both."""
    thresholds = DEFAULT_LIMITS.thresholds
    quarter = 100.0 - 25
    assert bytes_to_free(quarter, there(), thresholds) == 550
    assert bytes_to_free(quarter, there(200), thresholds) == 350
    assert bytes_to_free(quarter, there(400), thresholds) == 150
    assert bytes_to_free(PressureLevel.CRITICAL, there(), thresholds) == 0


def test_a_device_that_has_headroom_owes_nothing() -> None:
    """What is still in the system's memory there waits for no headroom: its device says that it was subtracted."""
    readings = replace(HELD, free_bytes=100)
    assert missing_bytes(100, readings, DEFAULT_LIMITS, ledger()) == 0
    assert there(readings=readings).total_bytes == 100
