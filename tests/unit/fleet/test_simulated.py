"""The simulated fleet of ``benchmarks.placement``: what it shows holds for nodes that tell, and measure, as real ones do."""

from collections import Counter
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import pytest

from benchmarks.fleet_placement.demand import Request, make
from benchmarks.fleet_placement.ours import Ours, Told
from benchmarks.fleet_placement.rules import LeastLoaded
from benchmarks.fleet_placement.world import World
from benchmarks.placement import Run


def test_nodes_tell_every_two_seconds_whenever_they_told_last() -> None:
    """Also where the sum of two times is, by its last bit, not as long after the first as it was to be."""
    demand = replace(make("zipf", 20, 60.0, 1), requests=(), failures=())
    world = World(demand, by_price=True)
    looks: Counter[str] = Counter()

    class Counted(Ours):
        def _tell(self, told: Told, delay_s: float = 0.0) -> None:
            looks[told.node.machine.name] += 1
            assert looks[told.node.machine.name] < 100, "it is asked again at the same moment"
            super()._tell(told, delay_s)

    rule = Counted(world, 1)
    for index, node in enumerate(world.nodes.values()):
        first = Request(index, 2.1 + index / 1000, demand.models[0], 1.0)
        world.at(first.at, partial(world.assign, first, node))
    rule.keys = {index: ("", name) for index, name in enumerate(world.nodes)}
    world.done = lambda _: None
    world.run(60.0)
    assert min(looks.values()) >= 30


def test_a_fleet_that_measures_its_own_work_waits_less_than_one_whose_load_is_known_for_nothing() -> None:
    """Nobody says how many requests a machine works on at once, nor for how long: nodes find it out, one from another."""
    demand = make("zipf", 24, 60.0, 7)
    ours, known = Run(demand, Ours, 7).result(), Run(demand, LeastLoaded, 7).result()
    assert ours.mean_s < known.mean_s
    assert ours.p99_s < known.p99_s
    assert ours.reload_s < known.reload_s


@pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")
def test_a_gateways_own_roster_places_as_the_simulation_does() -> None:
    """What is shown of the one is so of the other: the same requests wait as long."""
    from benchmarks.fleet_decision import Through

    demand = make("zipf", 20, 20.0, 7)
    simulated, real = Run(demand, Ours, 7), Run(demand, Through, 7)
    assert simulated.world.outcome.waits == real.world.outcome.waits
    assert simulated.world.outcome.waits
