"""How good the forecast of exhaustion is, against a line through all readings and against Theil and Sen.

python -m benchmarks.forecast [--write]      the table; --write puts it into docs/forecast.md
"""

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.forecast_curves import Curve, generated, recorded
from protocol.record import Record
from protocol.results import PressureTrend
from worker.core.records import HeadroomSample
from worker.policy.trend import CONFIDENCE, HORIZON_SECONDS, forecast
from worker.watch.headroom_series import HeadroomSeries

SEEDS = 12
LOOK_SECONDS = 2.0
"""A forecast is asked for this often."""

Forecast = Callable[[Sequence[HeadroomSample]], PressureTrend | None]


class Look(Record):
    """One forecast, and what came."""

    curve: Curve
    at: float
    said: PressureTrend | None

    @property
    def number(self) -> float | None:
        """The seconds that were said to be left."""
        return None if self.said is None else self.said.seconds_to_exhaustion

    @property
    def covered(self) -> bool:
        """Whether the truth lies within the interval: never, if it does not run out."""
        if self.said is None or self.curve.ends is None:
            return False
        assert self.said.low_seconds is not None
        assert self.said.high_seconds is not None
        slack = self.curve.step  # the truth is known to one step
        left = self.curve.ends - self.at
        return self.said.low_seconds - slack <= left <= self.said.high_seconds + slack


def looks(curve: Curve, method: Forecast, every: float = LOOK_SECONDS) -> list[Look]:
    """Follow a curve as the worker does, asking every few seconds."""
    series, found, due = HeadroomSeries(), [], every
    for index, room in enumerate(curve.rooms):
        at = index * curve.step
        series.add(HeadroomSample(round(at * 1e9), room))
        if at >= due:
            due += every
            found.append(Look(curve, at, method(series.samples())))
    return found


def line(samples: Sequence[HeadroomSample]) -> PressureTrend | None:
    """Fit one line by least squares, with the textbook's interval of its slope."""
    if len(samples) < 8:
        return None
    times, rooms = _columns(samples)
    slope, start = statistics.linear_regression(times, rooms)
    mean = statistics.fmean(times)
    squares = sum((at - mean) ** 2 for at in times)
    noise = sum((room - start - slope * at) ** 2 for at, room in zip(times, rooms, strict=True))
    error = math.sqrt(noise / (len(times) - 2) / squares)
    return _from_slopes(rooms[-1], slope, slope - 1.65 * error, slope + 1.65 * error)


def theil_sen(samples: Sequence[HeadroomSample]) -> PressureTrend | None:
    """Take the median of the slopes between all pairs, with Kendall's interval."""
    if len(samples) < 8:
        return None
    times, rooms = _columns(samples)
    count = len(times)
    slopes = sorted(
        (rooms[j] - rooms[i]) / (times[j] - times[i]) for i in range(count) for j in range(i + 1, count)
    )
    half = 1.65 * math.sqrt(count * (count - 1) * (2 * count + 5) / 18) / 2
    middle = len(slopes) / 2
    low = slopes[max(0, int(middle - half))]
    high = slopes[min(len(slopes) - 1, int(middle + half))]
    return _from_slopes(rooms[-1], statistics.median(slopes), low, high)


def _columns(samples: Sequence[HeadroomSample]) -> tuple[list[float], list[float]]:
    return [sample.at_ns / 1e9 for sample in samples], [float(sample.headroom_bytes) for sample in samples]


def _from_slopes(room: float, slope: float, steepest: float, flattest: float) -> PressureTrend:
    if flattest >= 0 or room / -slope > HORIZON_SECONDS:
        return PressureTrend(-slope, None, None, None)
    return PressureTrend(-slope, room / -slope, room / -steepest, room / -flattest)


def row(name: str, curves: Sequence[Curve], method: Forecast) -> str:
    """Write a line of the table."""
    all_looks = [look for curve in curves for look in looks(curve, method)]
    numbers = [look for look in all_looks if look.number is not None]
    ending = [look for look in all_looks if look.curve.ends is not None]
    said = [look for look in numbers if look.curve.ends is not None]
    false = len(numbers) - len(said)
    cells = [name]
    cells.append(f"{len(said) / len(ending):.0%}" if ending else "-")
    cells.append(f"{sum(look.covered for look in said) / len(said):.0%}" if said else "-")
    errors = [
        abs((look.number or 0) - (look.curve.ends - look.at))
        / max(look.curve.ends - look.at, look.curve.step)
        for look in said
        if look.curve.ends is not None
    ]
    cells.append(f"{statistics.median(errors):.0%}" if errors else "-")
    steady = len(all_looks) - len(ending)
    cells.append(f"{false / steady:.1%}" if steady else "-")
    return "| " + " | ".join(cells) + " |"


METHODS: dict[str, Forecast] = {
    "the worker's": forecast,
    "Theil and Sen": theil_sen,
    "one line": line,
}


def table(method: Forecast, seeds: int) -> list[str]:
    """Return the rows of one method: each kind of curve, then all together."""
    by_seed = [generated(seed) for seed in range(seeds)]
    kinds = [tuple(curves[index] for curves in by_seed) for index in range(len(by_seed[0]))]
    kinds += [(curve,) for curve in recorded()]
    rows = [row(curves[0].name, curves, method) for curves in kinds]
    return [*rows, row("**all**", [curve for curves in kinds for curve in curves], method)]


def main() -> None:
    """Print the tables, or write them into the docs."""
    text = []
    for name, method in METHODS.items():
        text += [f"\n### {name[0].upper()}{name[1:]}\n"]
        text += ["| curve | forecasts given | interval holds the truth | median error | false forecasts |"]
        text += ["|---|---|---|---|---|", *table(method, SEEDS)]
    print("\n".join(text))
    if "--write" in sys.argv:
        page = Path(__file__).parents[1] / "docs" / "forecast.md"
        before = page.read_text().partition("\n<!-- table -->")[0]
        page.write_text(f"{before}\n<!-- table -->\n" + "\n".join(text) + "\n")
    print(f"\nstated rate: {CONFIDENCE:.0%}; {SEEDS} curves of each kind, a forecast every {LOOK_SECONDS} s")


if __name__ == "__main__":
    main()
