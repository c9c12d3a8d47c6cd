"""An event as a sentence: what happened as the title, why as the reason."""

from collections.abc import Callable
from typing import Any

from protocol.record import Record
from protocol.vocabulary import EventName, PressureLevel, Source
from worker.tools.report.words import count, duration, end, mebibytes, rate, size

BUDGET_NOTABLE_SHARE = 0.01
"""A budget that moved by less is the system's breathing."""

_SEVERITY = {
    PressureLevel.LOW: 0,
    PressureLevel.MODERATE: 1,
    PressureLevel.HIGH: 2,
    PressureLevel.CRITICAL: 3,
}
_SOON_SECONDS = 60.0


class Told(Record):
    """An event in words. ``severity`` is 0 for what is only said, up to 3 for what hurts."""

    kind: str
    title: str
    reason: str
    severity: int


def told(event: str, data: dict[str, Any]) -> Told | None:
    """Say what an event means; None for one that a decision tells already, or that means nothing."""
    say = _SENTENCES.get(event)
    if say is not None:
        return say(data)
    rest = (f"{key} {value}" for key, value in data.items() if key != "device_id" and value is not None)
    return Told("event", event, ", ".join(rest), 1)


def _nothing(_data: dict[str, Any]) -> None:
    return None


def _level(data: dict[str, Any]) -> Told:
    before, now = str(data.get("from")), str(data.get("to"))
    percent = data.get("pressure_percentage")
    reason = "" if percent is None else f"{percent:.1f} % of the budget in use, by all processes"
    return Told("level", f"{before} → {now}", reason, _SEVERITY.get(PressureLevel(now), 0))


def _forecast(data: dict[str, Any]) -> Told:
    seconds = data.get("seconds_to_exhaustion")
    if seconds is None:
        return Told(
            "forecast", "no longer expected to run full", "it stopped growing, or memory was freed", 0
        )
    title = end(seconds, data.get("low_seconds"), data.get("high_seconds"))
    reason = f"{size(data.get('available_bytes'))} left, {rate(data.get('bytes_per_second') or 0.0)}"
    return Told("forecast", title, reason, 3 if seconds < _SOON_SECONDS else 2)


def _budget(data: dict[str, Any]) -> Told | None:
    before, now = data.get("previous_bytes"), data.get("budget_bytes")
    shrank = False
    if before is not None and now is not None:
        if abs(now - before) <= BUDGET_NOTABLE_SHARE * max(before, 1):
            return None
        shrank = now < before
    source = data.get("budget_source")
    by = "by this worker's own limit" if source == Source.CONFIG else f"as {source} says"
    reason = f"{by}; {size(data.get('available_bytes'))} available"
    return Told("budget", f"budget {size(before)} → {size(now)}", reason, 1 if shrank else 0)


def _demotion(data: dict[str, Any]) -> Told:
    now, before = data.get("demoted_bytes") or 0, data.get("previous_bytes") or 0
    if not now:
        return Told("demoted", "all device memory is the device's again", f"{size(before)} were demoted", 0)
    reason = "the system moved it to its own memory for want of headroom: slow until it is back"
    return Told("demoted", f"demoted {size(before)} → {size(now)}", reason, 2)


def _leak(data: dict[str, Any]) -> Told:
    held, owner, purpose = size(data.get("allocated_bytes")), data.get("owner"), data.get("purpose")
    match data.get("kind"):
        case "allocations":
            who = owner or "an owner without a name"
            title = f"{who} may leak {held}" + (f" of {purpose}" if purpose else "")
        case "python":
            title = f"Python objects of {owner} may leak {held}"
        case _:
            title = f"the process may leak {held} that nothing explains" + (
                f", growing in {owner}" if owner else ""
            )
    speed = data.get("bytes_per_second")
    reasons = [str(data.get("evidence", ""))]
    reasons += [] if speed is None else [rate(speed)]
    reasons.append(f"confidence {data.get('confidence')}")
    return Told("leak", title, ", ".join(reasons), 2)


def _optimized(data: dict[str, Any]) -> Told:
    steps = data.get("steps") or ()
    helped = bool(data.get("helped"))
    released = data.get("released") or ()
    done = [_step(step) for step in steps] + [f"asked {each.get('consumer_id')}" for each in released]
    did = ", ".join(dict.fromkeys(done))
    promised = sum(step.get("expected_bytes") or 0 for step in steps)
    promised += sum(each.get("claimed_bytes") or 0 for each in released)
    reason = (
        f"{data.get('pressure_level')} pressure lasted; it {'helped' if helped else 'did not help'}:"
        f" {size(data.get('returned_bytes'))} returned of {mebibytes(promised)} promised;"
        f" nothing more for {duration(int(data.get('next_in_ms') or 0))}"
    )
    return Told(
        "automatic",
        f"automatic: {did}" if helped else f"automatic, in vain: {did}",
        reason,
        0 if helped else 2,
    )


def _step(step: dict[str, Any]) -> str:
    """Say what was done of a recommendation."""
    about = step.get("data") or {}
    match step.get("step"):
        case "memory.unload_model":
            return f"unloaded {about.get('model_id')}"
        case "memory.clear":
            return "gave caches up"
        case other:
            return str(other)


def _expired(data: dict[str, Any]) -> Told:
    owner = data.get("owner") or "nobody named"
    reason = f"{data.get('allocation_id')} of {owner}, {data.get('freed_bytes', 0):,} bytes"
    return Told("expired", "a lease ran out", reason, 0)


def _unload_requested(data: dict[str, Any]) -> Told:
    wait = data.get("wait_ms")
    waits = "nothing waits for it" if wait is None else f"waits for up to {duration(wait)}"
    reason = f"{data.get('reason')}; {size(data.get('size_bytes'))}, {waits}"
    return Told("asked", f"the owner of {data.get('model_id')} was asked to unload it", reason, 1)


def _release_requested(data: dict[str, Any]) -> Told:
    title = f"{data.get('consumer_id')} was asked for {size(data.get('bytes'))}"
    return Told("asked", title, str(data.get("reason", "")), 1)


def _limit_changed(data: dict[str, Any]) -> Told:
    limit = data.get("limit_bytes")
    title = f"{data.get('consumer_id')} may hold {'what it likes' if limit is None else size(limit)}"
    return Told("limit", title, str(data.get("reason", "")), 0)


def _lost(data: dict[str, Any]) -> Told:
    gone = count(len(data.get("allocation_ids") or ()), "allocation")
    models = count(len(data.get("model_ids") or ()), "model")
    return Told("lost", f"{data.get('device_id')} lost {gone} and {models}", str(data.get("reason", "")), 3)


def _recovered(data: dict[str, Any]) -> Told:
    title = f"{data.get('device_id')} is back after {(data.get('lost_ms') or 0) / 1000:.1f} s"
    return Told("recovered", title, "nothing that was on it came back", 0)


def _displaced(data: dict[str, Any]) -> Told:
    if not data.get("displaced_bytes"):
        return Told("displaced", f"all contents of {data.get('device_id')} are on it again", "", 0)
    title = f"{size(data['displaced_bytes'])} of {data.get('device_id')} wait in host memory"
    return Told("displaced", title, str(data.get("reason", "")), 2)


_SENTENCES: dict[str, Callable[[dict[str, Any]], Told | None]] = {
    EventName.PRESSURE_CHANGED: _level,
    EventName.EXHAUSTION_FORECAST: _forecast,
    EventName.BUDGET_CHANGED: _budget,
    EventName.DEMOTION_CHANGED: _demotion,
    EventName.LEAK_SUSPECTED: _leak,
    EventName.OPTIMIZED: _optimized,
    EventName.ALLOCATION_EXPIRED: _expired,
    EventName.MODEL_UNLOADED: _nothing,  # the decision says it, with the reason
    EventName.UNLOAD_REQUESTED: _unload_requested,
    EventName.RELEASE_REQUESTED: _release_requested,
    EventName.CONSUMER_LIMIT_CHANGED: _limit_changed,
    EventName.FIGURES: _nothing,  # a record has samples
    EventName.DEVICE_LOST: _lost,
    EventName.DEVICE_RECOVERED: _recovered,
    EventName.CONTENTS_DISPLACED: _displaced,
}
