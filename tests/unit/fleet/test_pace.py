"""How many calls are worked on side by side is found from how long they take, whatever has them wait for one another."""

import heapq
import random
from dataclasses import replace

import pytest

from protocol.vocabulary import ModelState
from worker.fleet.pace import Measured, Pace
from worker.fleet.views import ModelView

WORK_S = 0.1
LOADED = ModelView("m", ModelState.LOADED, device_id="cuda:0")
COLD = replace(LOADED, model_id="cold")


class Served:
    """Calls that are worked on in order of arrival, so many at once, by a clock of its own."""

    def __init__(self, parallel: int) -> None:
        self.now = 0.0
        self.parallel = parallel
        self.pace = Pace(lambda: self.now)
        self.pace.loaded((LOADED,), ("cuda:0",))
        self._ends: list[tuple[float, str]] = []
        self._free = [0.0] * parallel

    def ask(self, at: float, work_s: float, model_id: str = "m") -> None:
        """Have a call come at a time, after those before it."""
        self.run(at)
        self.now = at
        begins = max(at, heapq.heappop(self._free))
        heapq.heappush(self._free, begins + work_s)
        call_id = str(random.random())
        self.pace.begin(call_id, "g", model_id)
        heapq.heappush(self._ends, (begins + work_s, call_id))

    def run(self, until: float = float("inf")) -> None:
        """Have calls end."""
        while self._ends and self._ends[0][0] <= until:
            self.now, call_id = heapq.heappop(self._ends)
            self.pace.end(call_id, done=True)

    def found(self) -> Measured:
        return self.pace.of("cuda:0")


@pytest.mark.parametrize("parallel", [1, 2, 4, 8])
def test_it_is_found_how_many_run_at_once(parallel: int) -> None:
    """Of calls that come by chance, now and then as a crowd: within a quarter, and how long a turn takes, from the first crowd on."""
    chance, served, at = random.Random(parallel), Served(parallel), 0.0
    served.ask(0.0, WORK_S)
    for crowd in range(12):
        at = served.now + 1.0
        for _ in range(4 * parallel):
            at += chance.expovariate(parallel * 3 / WORK_S)
            served.ask(at, WORK_S * chance.uniform(0.7, 1.3))
        served.run()
        work_ms, _, found, _ = served.found()
        assert found is not None, f"crowd {crowd}"
        assert abs(found - parallel) <= max(0.25 * parallel, 1), f"crowd {crowd}"
        assert work_ms is not None
        assert work_ms / 1000 / found == pytest.approx(WORK_S / parallel, rel=0.4)


def test_those_that_do_not_wait_for_one_another_have_no_limit() -> None:
    """However many are under way: none takes longer than alone."""
    served = Served(64)
    for number in range(200):
        served.ask(number * WORK_S / 10, WORK_S)
    work_ms, _, parallel, unslowed = served.found()
    assert (work_ms, parallel, unslowed) == (pytest.approx(WORK_S * 1000), None, 11)


def test_a_limit_that_is_gone_is_forgotten() -> None:
    """A plugin that is loaded anew may have no lock any more."""
    served = Served(1)
    for number in range(8):
        served.ask(number * WORK_S / 4, WORK_S)
    served.run()
    assert served.found().parallel == 1
    served._free = [0.0] * 64
    start = served.now + 1.0
    for number in range(100):
        served.ask(start + number * WORK_S / 8, WORK_S)
    served.run()
    assert served.found().parallel in {None, 8}


def test_a_call_that_had_to_load_its_model_says_nothing_of_work() -> None:
    served = Served(4)
    served.ask(0.0, 9.0, "cold")
    assert served.pace.under_way() == {"cold": {"g": 1}}
    served.run()
    assert served.found() == Measured()
    assert served.pace.under_way() == {}


def test_a_call_that_failed_says_nothing_of_work() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    pace.loaded((LOADED,), ("cuda:0",))
    pace.begin("1", "g", "m")
    now[0] = 0.001
    pace.end("1", done=False)
    assert pace.of("cuda:0") == Measured()


def test_a_long_call_of_one_model_is_not_the_work_of_another() -> None:
    """What is under way is expected to take what its own models' calls take."""
    served = Served(8)
    served.pace.loaded((LOADED, ModelView("long", ModelState.LOADED, device_id="cuda:0")), ("cuda:0",))
    served.ask(0.0, 9.0, "long")
    served.ask(10.0, 0.1, "m")
    served.run()
    served.ask(20.0, 9.0, "long")
    assert served.found().work_ms == pytest.approx(9000)
    served.ask(20.0, 0.1, "m")
    served.ask(20.0, 0.1, "m")
    assert served.found().work_ms == pytest.approx((9000 + 200) / 3)


@pytest.mark.parametrize("parallel", [2, 4])
def test_a_device_that_is_never_idle_is_measured_as_well(parallel: int) -> None:
    """No call is ever alone there, and work takes very different times: by chance a tenth to ten times as long."""
    chance, served, at = random.Random(parallel), Served(parallel), 0.0
    for _ in range(200):
        served.ask(at, WORK_S * chance.lognormvariate(-0.125, 0.5))
        at += chance.expovariate(parallel * 0.95 / WORK_S)
    found = served.found()
    assert found.parallel is not None
    assert found.work_ms is not None
    assert found.work_ms / 1000 / found.parallel == pytest.approx(WORK_S / parallel, rel=0.4)


def test_a_call_that_waited_for_its_model_is_measured_from_when_that_was_loaded() -> None:
    """A crowd for a cold model is what measures its node: those behind it come to a device that is known."""
    served = Served(2)
    for _ in range(8):
        served.ask(0.0, WORK_S, "cold")
    served.pace.loaded((COLD,), ("cuda:0",))
    served.run()
    assert served.found().work_ms == pytest.approx(WORK_S * 1000, rel=0.1)
    assert served.found().parallel == 2


def test_a_call_whose_beginning_was_not_seen_says_nothing_of_work() -> None:
    """Its model was loaded at some time since that was looked at last: for most of what so short a call took."""
    served = Served(2)
    served.ask(0.0, 2 * WORK_S, "cold")
    served.now = 1.9 * WORK_S
    served.pace.loaded((COLD,), ("cuda:0",))
    served.run()
    assert served.found() == Measured()


def test_what_is_under_way_counts_once_it_is_longer_than_what_ended() -> None:
    """The first to end are the shortest: until the others end they are known to take longer."""
    served = Served(4)
    served.ask(0.0, 0.1)
    served.ask(0.1, 9.0)
    served.now = 0.15
    assert served.found().work_ms == pytest.approx(100)
    served.now = 0.6
    assert served.found().work_ms == pytest.approx((100 + 500) / 2)


def test_until_any_call_ended_it_is_known_how_long_the_first_takes_at_least() -> None:
    served = Served(4)
    served.ask(0.0, 9.0)
    served.now = 3.0
    assert served.found() == Measured(so_far_ms=3000.0)
