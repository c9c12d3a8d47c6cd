"""Curves of a device's room, made up and recorded, with the time at which it really runs out."""

import math
import random
from collections.abc import Callable
from pathlib import Path

from protocol.record import Record

MIB = 2**20
BUDGET = 8192 * MIB
_RECORDED = Path(__file__).parent / "curves"


_FUTURE_SECONDS = 3600
"""How far a curve is followed to see whether it ends; it is shown for less."""


class Curve(Record):
    """Room in bytes every ``step`` seconds; ``ends`` is when it is gone, None if it never is."""

    name: str
    step: float
    rooms: tuple[int, ...]
    ends: float | None


def _curve(
    name: str, used: Callable[[float], float], noise: Callable[[], float], seconds: int = 300
) -> Curve:
    """Sample used bytes over time. The end is that of the use itself, without the noise of reading it."""
    step, rooms = 0.5, list[int]()
    for tick in range(int(_FUTURE_SECONDS / step)):
        left = BUDGET - used(tick * step)
        if left <= 0:
            return Curve(name, step, tuple(rooms), tick * step)
        if tick * step < seconds:
            rooms.append(max(0, round(left + noise())))
    return Curve(name, step, tuple(rooms), None)


def generated(seed: int) -> tuple[Curve, ...]:
    """Return one of each kind."""
    r = random.Random(seed)
    base = r.uniform(0.2, 0.5) * BUDGET
    rate = (BUDGET - base) / r.uniform(80, 250)
    spread = r.choice((1, 8, 32)) * MIB

    def white() -> float:
        return r.gauss(0, spread)

    state = [0.0]

    def coloured() -> float:
        state[0] = 0.95 * state[0] + r.gauss(0, spread)
        return state[0]

    size = r.uniform(64, 384) * MIB
    arrivals = sorted(r.uniform(0, 600) for _ in range(int(600 * rate / size)))
    period, tooth = r.uniform(10, 40), r.uniform(0.05, 0.3) * BUDGET
    stops = r.uniform(20, 60)
    walk = [0.0]

    def walking(_: float) -> float:
        walk[0] += r.gauss(0, 24 * MIB)
        return base + walk[0]

    def steps(t: float) -> float:
        return base + size * sum(at <= t for at in arrivals)

    def saw(t: float) -> float:
        return base + tooth * ((t % period) / period)

    double = r.uniform(25, 60)
    return (
        _curve("linear leak", lambda t: base + rate * t, white),
        _curve("linear leak, lasting noise", lambda t: base + rate * t, coloured),
        _curve("leak that begins late", lambda t: base + rate * max(0.0, t - stops), white),
        _curve("accelerating", lambda t: base + 0.02 * BUDGET * (math.exp(t / double) - 1), white),
        _curve("slowing down", lambda t: base + 1.15 * (BUDGET - base) * (1 - math.exp(-t / 60)), white),
        _curve("leak in steps", steps, white),
        _curve("saw-tooth with a leak", lambda t: saw(t) + 0.5 * rate * t, white),
        _curve("steady, white noise", lambda _: base, white),
        _curve("steady, lasting noise", lambda _: base, coloured),
        _curve("saw-tooth", saw, white),
        _curve("waves", lambda t: base + tooth * math.sin(2 * math.pi * t / period), white),
        _curve("growth, then a plateau", lambda t: base + 0.3 * rate * min(t, stops), white),
        _curve("one step", lambda t: base + (size if t > stops else 0), white),
        _curve("random walk", walking, lambda: 0.0),
    )


def recorded() -> tuple[Curve, ...]:
    """Return the curves of real processes: pages of 4 KiB by milliseconds, as the system told them.

    The limit of one that grows is set to what it reached after four fifths; the others never reach theirs.
    """
    found = []
    for path in sorted(_RECORDED.glob("*.csv")):
        rows = [tuple(map(int, line.split(","))) for line in path.read_text().splitlines()]
        used = [pages * 4096 for _, pages in rows]
        step = (rows[-1][0] - rows[0][0]) / (len(rows) - 1) / 1000
        name = f"recorded: {path.stem.replace('_', ' ')}"
        if "leak" in path.stem:
            last = len(used) * 4 // 5
            limit = max(used[: last + 1])
            last = next(index for index, size in enumerate(used) if size >= limit)
            found.append(Curve(name, step, tuple(limit - size for size in used[:last]), last * step))
        else:
            limit = max(used) + (max(used) - min(used)) // 4
            found.append(Curve(name, step, tuple(limit - size for size in used), None))
    return tuple(found)
