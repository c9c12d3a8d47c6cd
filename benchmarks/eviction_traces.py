"""Use traces of the shapes that model servers see, made from a seed: the same seed gives the same trace."""

import random
from collections.abc import Callable, Iterator

from protocol.record import Record

USES = 1500
GIB = 2**30


class Trace(Record):
    """What was used in which order, on a device of ``capacity_bytes``."""

    shape: str
    seed: int
    sizes: dict[str, int]
    load_ms: dict[str, int]
    capacity_bytes: int
    uses: tuple[str, ...]


def _zipf_weights(count: int, exponent: float) -> list[float]:
    return [1 / (rank + 1) ** exponent for rank in range(count)]


def zipf(rng: random.Random, names: list[str]) -> Iterator[str]:
    """Independent uses, a few models much more popular than the rest."""
    weights = _zipf_weights(len(names), rng.uniform(0.7, 1.3))
    order = rng.sample(names, len(names))
    while True:
        yield rng.choices(order, weights)[0]


def drift(rng: random.Random, names: list[str]) -> Iterator[str]:
    """Zipf whose popular models change: every 50 uses, two models trade ranks; at times the whole order."""
    weights = _zipf_weights(len(names), rng.uniform(0.9, 1.3))
    order = rng.sample(names, len(names))
    period = rng.choice([30, 50, 80])
    while True:
        for _ in range(period):
            yield rng.choices(order, weights)[0]
        for _ in range(2):
            left, right = rng.sample(range(len(names)), 2)
            order[left], order[right] = order[right], order[left]
        if rng.random() < 0.05:
            rng.shuffle(order)


def _bursty(sessions: int) -> Callable[[random.Random, list[str]], Iterator[str]]:
    def generate(rng: random.Random, names: list[str]) -> Iterator[str]:
        length = rng.choice([10, 20, 40])
        width = rng.choice([1, 2])
        weights = _zipf_weights(len(names), rng.uniform(0.2, 0.8))
        order = rng.sample(names, len(names))
        active = [[rng.choices(order, weights)[0] for _ in range(width)] for _ in range(sessions)]
        while True:
            session = rng.randrange(sessions)
            yield rng.choice(active[session])
            if rng.random() < 1 / length:
                active[session] = [rng.choices(order, weights)[0] for _ in range(width)]

    return generate


def cyclic(rng: random.Random, names: list[str]) -> Iterator[str]:
    """One fixed order, over and over, longer than what fits."""
    order = rng.sample(names, len(names))
    while True:
        yield from order


def cyclic_random(rng: random.Random, names: list[str]) -> Iterator[str]:
    """The fixed order, with a share of uses at random in between."""
    order = rng.sample(names, len(names))
    share = rng.choice([0.1, 0.2, 0.3])
    while True:
        for name in order:
            while rng.random() < share:
                yield rng.choice(names)
            yield name


def scans(rng: random.Random, names: list[str]) -> Iterator[str]:
    """A popular few, and now and then one pass over everything else (a nightly evaluation, say)."""
    hot = rng.sample(names, max(3, len(names) // 4))
    cold = [name for name in names if name not in hot]
    weights = _zipf_weights(len(hot), rng.uniform(0.2, 0.8))
    period = rng.choice([20, 40, 60])
    while True:
        for _ in range(round(rng.uniform(0.7, 1.3) * period)):
            yield rng.choices(hot, weights)[0]
        start = rng.randrange(len(cold))
        yield from (cold[start:] + cold[:start])[: rng.randint(len(cold) // 2, len(cold))]


def agent_chains(rng: random.Random, names: list[str]) -> Iterator[str]:
    """Pipelines of three to five models, one after the other, some with steps repeated or left out."""
    chains = [rng.sample(names, rng.randint(3, 5)) for _ in range(max(4, len(names) // 3))]
    weights = _zipf_weights(len(chains), rng.uniform(0.3, 1.0))
    while True:
        for step in rng.choices(chains, weights)[0]:
            if rng.random() < 0.05:
                continue
            yield step
            while rng.random() < 0.2:
                yield step


SHAPES: dict[str, Callable[[random.Random, list[str]], Iterator[str]]] = {
    "zipf": zipf,
    "drift": drift,
    "bursty-2": _bursty(2),
    "bursty-4": _bursty(4),
    "cyclic": cyclic,
    "cyclic+random": cyclic_random,
    "scans": scans,
    "agent-chains": agent_chains,
}


def make_trace(shape: str, sizes: str, seed: int, uses: int = USES) -> Trace:
    """Make one trace.

    ``sizes`` is ``"equal"`` (20 models of 4 GiB, load times within a factor of 1) or ``"mixed"``: 16 to 28
    models of 0.5 to 16 GiB, read at 0.5 to 3 GiB/s (a fast disk, a slow one, a conversion on the way) after 0.2 to 2 s of set-up.
    The device holds 25 to 60 percent of all bytes, and always the largest model.
    """
    rng = random.Random(f"{shape}/{sizes}/{seed}")  # noqa: S311 - a trace, not a secret
    count = rng.randint(12, 28)
    names = [f"m{index:02}" for index in range(count)]
    if sizes == "equal":
        size = dict.fromkeys(names, 4 * GIB)
        load = dict.fromkeys(names, 4000)
    else:
        size = {name: round(GIB * 2 ** rng.uniform(-1, 4)) for name in names}
        load = {
            name: round(1000 * (rng.uniform(0.2, 2) + size[name] / GIB / 2 ** rng.uniform(-1, 1.6)))
            for name in names
        }
    capacity = max(round(sum(size.values()) * rng.uniform(0.25, 0.6)), max(size.values()))
    source = SHAPES[shape](rng, names)
    return Trace(shape, seed, size, load, capacity, tuple(next(source) for _ in range(uses)))
