"""Headroom and pressure: what readings, limits and the ledger mean together. Pure."""

from dataclasses import replace

from protocol.record import Record
from protocol.results import Limits, PressureThresholds
from protocol.vocabulary import DEFAULT_THRESHOLDS, INT64_MAX, PressureLevel, Source
from worker.core.records import Readings

SEVERITY = {
    PressureLevel.UNKNOWN: 0,
    PressureLevel.LOW: 1,
    PressureLevel.MODERATE: 2,
    PressureLevel.HIGH: 3,
    PressureLevel.CRITICAL: 4,
}

DEFAULT_LIMITS = Limits(None, 0, PressureThresholds(*DEFAULT_THRESHOLDS))

CPU_RESERVE_MAX_BYTES = 256 * 2**20
CPU_RESERVE_SHARE = 64
"""The CPU keeps 1/64 of its budget, at most 256 MiB, free by default: the kernel's own "available" is an
estimate, and whoever takes the last of it is killed for it."""


class Headroom(Record):
    """What can still be had, and what stands in the way."""

    budget_bytes: int | None
    budget_source: Source | None
    below_cap_bytes: int | None
    """Headroom below the configured cap; None where there is no cap."""
    unreserved_bytes: int
    """What one allocation could get if nothing were kept for the host; 0 where it can't be told."""
    total_bytes: int | None
    """Headroom in all."""
    available_bytes: int | None
    """What one allocation can get: less than the total where memory is in pieces."""
    pressure_percentage: float | None
    uncapped_bytes: int | None
    """What the device itself has, whatever the cap; None where it can't be told."""
    demoted_bytes: int = 0
    """What the system moved out of the device of what this worker holds there: it comes back into what is freed."""
    held_bytes: int = 0
    """What this worker holds of the device, wherever it is."""
    owed_bytes: int = 0
    """What of the demoted comes back into what is freed before any of that is headroom."""


class LedgerTotals(Record):
    """The part of a device's ledger that headroom depends on."""

    allocated_bytes: int
    reserved_bytes: int
    drift_bytes: int
    """Committed less freed since the readings were taken."""


def headroom(readings: Readings, limits: Limits, ledger: LedgerTotals) -> Headroom:
    """Work out what an allocation can get.

    1. The hardware gives what it reads as free, less what was committed since, or is reserved; what was moved out of
       it comes back first.
    2. A configured cap gives what the ledger has not used of it.
    3. The smaller of both is the headroom; one allocation gets at most the largest block of it.
    4. Pressure is the share of the budget that is not to be had any more.
    """
    # 1
    hardware, freed = None, max(0, -ledger.drift_bytes)
    if readings.free_bytes is not None:
        gone = readings.owed_bytes + ledger.drift_bytes + ledger.reserved_bytes
        hardware = max(0, readings.free_bytes - gone)
    largest = INT64_MAX if readings.largest_block_bytes is None else readings.largest_block_bytes
    # 2
    below_cap = None
    budget, source = readings.budget_bytes, readings.budget_source
    if limits.limit_bytes is not None:
        below_cap = max(0, limits.limit_bytes - ledger.allocated_bytes - ledger.reserved_bytes)
        if budget is None or limits.limit_bytes < budget:
            budget, source = limits.limit_bytes, Source.CONFIG
    # 3
    uncapped = None if hardware is None else max(0, hardware - limits.reserve_bytes)
    total = min((each for each in (uncapped, below_cap) if each is not None), default=None)
    available = None if total is None else min(total, largest)
    # 4
    return Headroom(
        budget_bytes=budget,
        budget_source=source,
        below_cap_bytes=below_cap,
        unreserved_bytes=min(hardware or 0, largest),
        total_bytes=total,
        available_bytes=available,
        pressure_percentage=_percentage(total, budget),
        uncapped_bytes=uncapped,
        demoted_bytes=max(0, (readings.process_demoted_bytes or 0) - freed),
        held_bytes=readings.process_held_bytes or 0,
        owed_bytes=max(0, readings.owed_bytes - freed),
    )


def _percentage(total: int | None, budget: int | None) -> float | None:
    if budget is None or total is None:
        return None
    return round(100 * (1 - min(1.0, total / budget)), 3) if budget else 100.0


def for_others(found: Headroom) -> Headroom:
    """Return the headroom that others than the worker's own models and allocations can add to: its cap is none of theirs."""
    total = found.uncapped_bytes
    return replace(found, total_bytes=total, pressure_percentage=_percentage(total, found.budget_bytes))


def within(own: Headroom, other: Headroom) -> Headroom:
    """Return the headroom of a device whose memory is another's: no more than that has."""
    if other.total_bytes is None or own.total_bytes is None or own.available_bytes is None:
        return own
    return replace(
        own,
        unreserved_bytes=min(own.unreserved_bytes, other.unreserved_bytes),
        total_bytes=min(own.total_bytes, other.total_bytes),
        available_bytes=min(own.available_bytes, other.total_bytes),
        uncapped_bytes=min(
            (each.uncapped_bytes for each in (own, other) if each.uncapped_bytes is not None), default=None
        ),
    )


def level_of(percentage: float | None, thresholds: PressureThresholds) -> PressureLevel:
    """Name the level of a pressure percentage."""
    if percentage is None:
        return PressureLevel.UNKNOWN
    if percentage >= thresholds.critical:
        return PressureLevel.CRITICAL
    if percentage >= thresholds.high:
        return PressureLevel.HIGH
    if percentage >= thresholds.moderate:
        return PressureLevel.MODERATE
    return PressureLevel.LOW


def worst(levels: list[PressureLevel]) -> PressureLevel:
    """Return the most severe level; unknown where there is none."""
    return max(levels, key=SEVERITY.__getitem__, default=PressureLevel.UNKNOWN)


def default_limits(*, cpu_budget_bytes: int | None = None, limit_bytes: int | None = None) -> Limits:
    """Return the limits that a device starts with."""
    reserve = 0 if cpu_budget_bytes is None else _cpu_reserve(cpu_budget_bytes)
    return Limits(limit_bytes, reserve, DEFAULT_LIMITS.thresholds)


def follow_budget(limits: Limits, before: int | None, now: int | None) -> Limits:
    """Return limits for a budget that changed: a reserve that was that of the budget by default still is."""
    if before is None or now is None or before == now or limits.reserve_bytes != _cpu_reserve(before):
        return limits
    return replace(limits, reserve_bytes=_cpu_reserve(now))


def _cpu_reserve(budget_bytes: int) -> int:
    return min(CPU_RESERVE_MAX_BYTES, budget_bytes // CPU_RESERVE_SHARE)
