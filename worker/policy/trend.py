"""Where a device's headroom is heading: its slope, and when it runs out, with an interval. Pure.

A Kalman filter follows the headroom and its slope. How noisy the readings are, how far the headroom jumps, how fast
the slope turns and whether it bends for good is not assumed: many answers are filtered side by side. The one
under which the readings are likeliest gives the number; all that are nearly as likely give the interval, and
where one of them sees no end, there is no forecast.
"""

import math
from collections.abc import Sequence

from protocol.record import Record
from protocol.results import PressureTrend
from worker.core.clock import NS_PER_S
from worker.core.records import HeadroomSample

CONFIDENCE = 0.9
"""The stated rate: the share of forecasts whose interval is to hold the truth. Held by ``benchmarks.forecast``."""

HORIZON_SECONDS = 3600.0
"""What lies further off is no forecast."""

MIN_SAMPLES = 8

_FURTHEST = 4.0
"""Nothing is foretold further ahead than this many times what was seen."""

_Z = 1.8
"""Standard deviations on either side. More than the 1.65 of a known normal distribution: what is filtered with
was itself estimated, and what runs out runs out at the first crossing, not at the mean one."""

_NEARLY = 1.35
"""How far below the best log likelihood an answer still counts: 1.35 would be nine in ten for one unknown."""

_JUMPS = (0.0, 0.1, 1.0, 10.0)
_TURNS = (0.0, 0.003, 0.1)
"""Standard deviations of the jumps, and of the slope's turns, for one typical step, in units of the readings'
own noise."""

_BENDS = (-6.0, -4.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0)
"""How many times the slope grows by a factor of e over what was seen, or shrinks where below 0."""

_BEGINNINGS = (5, 8, 16, 24, 32, 40, 48)
"""How many readings ago what goes on now may have begun; then it is looked closer around the likeliest."""

_KNOWN_BEFORE = 3
"""At least so many readings lie before it."""

_DROP_PAST = 3.0
"""How much likelier, in logarithms of the number of readings, a beginning has to be before it speaks alone."""

_REFINEMENTS = 4
"""How often the likeliest bend is narrowed down to half the distance."""


class _Answer(Record):
    """What one filter says at the last reading. Seconds, bytes."""

    bend: float
    """The slope grows by a factor of e in this many seconds, shrinks so if it is below 0; 0 for a line."""
    headroom: float
    slope: float
    headroom_variance: float
    covariance: float
    slope_variance: float
    jump_variance: float
    turn_variance: float
    """Each per second."""
    log_likelihood: float


def may_run_out(samples: Sequence[HeadroomSample]) -> bool:
    """Tell, at next to no cost, whether it is worth asking ``forecast``: most of the time it is not.

    Headroom that shrank by less than this of what is left cannot run out within the time that may be foretold, not
    even where it shrinks ever faster.
    """
    if len(samples) < MIN_SAMPLES:
        return False
    lost = max(sample.headroom_bytes for sample in samples) - samples[-1].headroom_bytes
    return lost * _FURTHEST * _BENDS[-1] >= samples[-1].headroom_bytes


def forecast(samples: Sequence[HeadroomSample]) -> PressureTrend | None:
    """Return the slope of use and the time until no headroom is left.

    1. Too few readings: nothing.
    2. Headroom that does not shrink for certain, or not soon enough: a slope, and no time.
    3. An answer that is nearly as likely sees no end: likewise.
    4. Otherwise the time, and an interval around all answers.
    """
    if len(samples) < MIN_SAMPLES:  # 1
        return None
    times, headrooms, step = _columns(samples)
    lines = [
        _filter(times, times, headrooms, 0.0, jump**2 / step, turn**2 / step**3)
        for jump in _JUMPS
        for turn in _TURNS
    ]
    best = max(lines, key=_likelihood)
    rate = round(-best.slope, 3) + 0.0  # no minus zero
    unknown = PressureTrend(rate, None, None, None)
    furthest = min(HORIZON_SECONDS, -_FURTHEST * times[0])
    if not _shrinks(best) or best.headroom > 2 * furthest * -best.slope:  # 2
        return unknown
    lasting = [*lines, *_bent(times, headrooms, step)]
    begun = _begun_lately(times, headrooms, step)
    best = max([*lasting, *begun], key=_likelihood)
    seconds = _crossing(best, 0.0) if _shrinks(best) else None
    if seconds is None or seconds > furthest:  # 2
        return unknown
    earliest, latest = seconds, seconds
    likely = best.log_likelihood - _NEARLY
    # The whole past is not dropped for a beginning that is only somewhat likelier.
    likely_lasting = likely - (_DROP_PAST * math.log(len(times)) if best in begun else 0.0)
    for answer in (
        *(each for each in lasting if each.log_likelihood >= likely_lasting),
        *(each for each in begun if each.log_likelihood >= likely),
    ):
        late = _crossing(answer, _Z) if _shrinks(answer) else None
        if late is None:  # 3
            return unknown
        earliest, latest = min(earliest, _crossing(answer, -_Z) or 0.0), max(latest, late)
    return PressureTrend(round(-best.slope, 3), round(seconds, 3), round(earliest, 3), round(latest, 3))  # 4


def _likelihood(answer: _Answer) -> float:
    return answer.log_likelihood


def _shrinks(answer: _Answer) -> bool:
    """Tell whether the headroom shrinks for certain."""
    return answer.slope + _Z * math.sqrt(answer.slope_variance) < 0


def _columns(samples: Sequence[HeadroomSample]) -> tuple[list[float], list[float], float]:
    """Return seconds up to the last reading, headrooms, and the typical step."""
    last = samples[-1].at_ns
    times = [(sample.at_ns - last) / NS_PER_S for sample in samples]
    headrooms = [float(sample.headroom_bytes) for sample in samples]
    return times, headrooms, max(-times[0] / (len(times) - 1), 1e-6)


def _bent(times: list[float], headrooms: list[float], step: float) -> list[_Answer]:
    """Filter along times that are stretched so that what bends is a line; then look closer at the best."""

    def along(bends: float, jump: float) -> _Answer:
        bend = -times[0] / bends
        stretched = [bend * math.expm1(at / bend) for at in times]
        return _filter(times, stretched, headrooms, bend, jump**2 / step, 0.0)

    found = [(bends, jump, along(bends, jump)) for bends in _BENDS for jump in _JUMPS]
    distance = 1.0
    for _ in range(_REFINEMENTS):
        bends, jump, _ = max(found, key=lambda each: each[2].log_likelihood)
        distance /= 2
        near = [bends * (1 - distance / 2), bends * (1 + distance / 2)]
        found += [(each, jump, along(each, jump)) for each in near]
    return [answer for _, _, answer in found]


def _begun_lately(times: list[float], headrooms: list[float], step: float) -> list[_Answer]:
    """Filter lines that begin anew at a later reading: what was before tells nothing of it."""

    def anew(back: int, jump: float) -> tuple[int, float, _Answer]:
        found = _filter(times, times, headrooms, 0.0, jump**2 / step, 0.0, len(times) - back)
        return back, jump, found

    most = len(times) - _KNOWN_BEFORE
    found = [anew(back, jump) for back in _BEGINNINGS if back <= most for jump in _JUMPS]
    for distance in (8, 4, 2, 1) if found else ():
        back, jump, _ = max(found, key=lambda each: each[2].log_likelihood)
        near = (back - distance, back + distance)
        found += [anew(each, jump) for each in near if _BEGINNINGS[0] <= each <= most]
    return [answer for _, _, answer in found]


def _filter(
    times: list[float],
    along: list[float],
    headrooms: list[float],
    bend: float,
    jumps: float,
    turns: float,
    anew: int = 1,
) -> _Answer:
    """Run one filter over all readings, in units of the readings' own noise, which comes out at the end.

    It starts at the first two readings' line, as if nothing was known before; and again where it begins
    ``anew``, which has to be worth its price.
    """
    squares, logs = 0.0, 0.0 if anew == 1 else 2 * math.log(len(times))
    headroom = slope = a = b = c = 0.0
    for index in range(1, len(times)):
        dt = max(along[index] - along[index - 1], 1e-9)
        if index in {1, anew}:
            headroom, slope = headrooms[index], (headrooms[index] - headrooms[index - 1]) / dt
            a, b = 1.0, 1.0 / dt
            c = (2.0 + jumps * (times[index] - times[index - 1])) / dt**2 + turns * dt / 3
            continue
        headroom += slope * dt
        # Readings a moment apart make huge figures that cancel: what is left may lie a little below nothing.
        a = (
            max(0.0, a + dt * (2 * b + dt * c))
            + jumps * (times[index] - times[index - 1])
            + turns * dt**3 / 3
        )
        b += dt * c + turns * dt**2 / 2
        c += turns * dt
        total = a + 1.0
        surprise = headrooms[index] - headroom
        squares += surprise * surprise / total
        logs += math.log(total)
        gain, gain_slope = a / total, b / total
        headroom += gain * surprise
        slope += gain_slope * surprise
        c = max(0.0, c - gain_slope * b)
        b *= 1 - gain
        a *= 1 - gain
    count = len(times) - 2
    noise = max(squares / count, 1.0)  # readings are whole bytes at best
    likelihood = -0.5 * (count * math.log(noise) + logs)
    variances = (a * noise, b * noise, c * noise, jumps * noise, turns * noise)
    return _Answer(bend, headroom, slope, *variances, likelihood)


def _crossing(answer: _Answer, deviations: float) -> float | None:
    """Return when the headroom, so many standard deviations off its course, is gone; None if not in time."""

    def left(seconds: float) -> float:
        ahead = answer.bend * math.expm1(min(seconds / answer.bend, 99.0)) if answer.bend else seconds
        variance = answer.headroom_variance + ahead * (2 * answer.covariance + ahead * answer.slope_variance)
        variance += seconds * answer.jump_variance + seconds**3 * answer.turn_variance / 3
        return answer.headroom + answer.slope * ahead + deviations * math.sqrt(max(variance, 0.0))

    if left(0.0) <= 0:
        return 0.0
    # The first crossing: the spread can grow faster than the headroom shrinks, and then there is a last one, too.
    before, after = 0.0, 0.01
    while left(after) > 0:
        if after >= _LAST * HORIZON_SECONDS:
            return None
        before, after = after, after * 1.2
    while after - before > 0.001 * after:
        middle = (before + after) / 2
        before, after = (middle, after) if left(middle) > 0 else (before, middle)
    return after


_LAST = 4.0
"""The interval may reach this many horizons."""
