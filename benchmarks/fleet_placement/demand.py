"""What is asked of a fleet: models, machines and requests, made from a seed."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

GB = 10**9
WORK_S = 15.0
BUSY = 0.5
"""Share of all slots that the requests keep busy."""


@dataclass(frozen=True)
class Model:
    name: str
    size: int
    work_s: float
    """Mean time that a request works with it."""


@dataclass(frozen=True)
class Machine:
    name: str
    capacity: int
    slots: int
    """Requests that are worked on side by side."""
    disk: float
    link: float
    """Bytes a second, of its own disk and of the share."""
    local: frozenset[str]
    """Models whose files are on its own disk."""

    def load_s(self, model: Model) -> float:
        return 0.5 + model.size / (self.disk if model.name in self.local else self.link)


@dataclass(frozen=True)
class Request:
    number: int
    at: float
    model: Model
    work_s: float


@dataclass(frozen=True)
class Demand:
    machines: tuple[Machine, ...]
    models: tuple[Model, ...]
    requests: tuple[Request, ...]
    failures: tuple[tuple[float, str, float], ...]
    """When which machine is lost, and when it is back, empty."""
    seconds: float


SHAPES = ("zipf", "drift", "crowds", "failures")


def make(shape: str, nodes: int, seconds: float, seed: int) -> Demand:
    """Make a fleet and what is asked of it.

    Machines of 16 to 80 GB, disks of 0.5 to 3 GB/s, a share at 10 or at 2.5 Gbit/s; two in five files are local. Models of 1
    to 30 GB, five times as many as nodes and 300 at most. ``drift``: popular models trade places, at times all of them.
    ``crowds``: now and then a fifth of all requests is for one model that was seldom asked for. ``failures``: a node
    in five is lost once, for a minute or two.
    """
    rng = random.Random(f"{shape}/{nodes}/{seed}")
    models = tuple(
        Model(f"m{index:03}", round(GB * 30 ** rng.random()), WORK_S * rng.uniform(0.3, 1.7))
        for index in range(min(300, 5 * nodes))
    )
    machines = tuple(
        Machine(
            f"node-{index}",
            *rng.choices([(16 * GB, 2), (24 * GB, 2), (48 * GB, 4), (80 * GB, 6)], [6, 7, 4, 3])[0],
            rng.choice([0.5, 1.0, 2.0, 3.0]) * GB,
            rng.choice([1.17, 1.17, 0.29]) * GB,
            frozenset(each.name for each in models if rng.random() < 0.4),
        )
        for index in range(nodes)
    )
    largest = max(each.capacity for each in machines)
    models = tuple(each for each in models if each.size <= largest)
    rate = BUSY * sum(each.slots for each in machines) / WORK_S
    draw = _drawn(shape, rng, models)
    requests: list[Request] = []
    at = 0.0
    while (at := at + rng.expovariate(rate)) < seconds:
        model = draw(at)
        work = model.work_s * rng.lognormvariate(-0.125, 0.5)
        requests.append(Request(len(requests), at, model, work))
    failures = []
    if shape == "failures":
        for machine in rng.sample(machines, max(1, nodes // 5)):
            lost = rng.uniform(0.2, 0.9) * seconds
            failures.append((lost, machine.name, lost + rng.uniform(60, 120)))
    return Demand(machines, models, tuple(requests), tuple(failures), seconds)


def _drawn(shape: str, rng: random.Random, models: tuple[Model, ...]) -> Callable[[float], Model]:
    """Return what gives the model that is asked for at a time."""
    exponent = rng.uniform(0.8, 1.1)
    cumulative = list(accumulate(1 / (rank + 1) ** exponent for rank in range(len(models))))
    order = rng.sample(models, len(models))
    crowds = _crowds(rng, order)
    shift, crowd = 20.0, next(crowds)

    def draw(at: float) -> Model:
        nonlocal shift, crowd
        if shape == "drift" and at >= shift:
            shift = at + 20.0
            for _ in range(max(1, len(order) // 20)):
                left, right = rng.sample(range(len(order)), 2)
                order[left], order[right] = order[right], order[left]
            if rng.random() < 0.05:
                rng.shuffle(order)
        if shape == "crowds":
            while at > crowd[1]:
                crowd = next(crowds)
            begins, _, model = crowd
            if at >= begins and rng.random() < 0.2:
                return model
        return rng.choices(order, cum_weights=cumulative)[0]

    return draw


def _crowds(rng: random.Random, order: list[Model]) -> Iterator[tuple[float, float, Model]]:
    at = 30.0
    while True:
        begins = at + rng.uniform(20, 60)
        at = begins + rng.uniform(40, 90)
        yield begins, at, rng.choice(order[len(order) // 2 :])
