"""How many calls are worked on side by side is found from how long they take, whatever has them wait for one another."""

import heapq
import random

import pytest

from protocol.vocabulary import ModelState
from worker.fleet.pace import Pace
from worker.fleet.views import ModelView

WORK_S = 0.1
LOADED = ModelView("m", ModelState.LOADED, device_id="cuda:0")


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

    def found(self) -> tuple[float | None, int | None]:
        return self.pace.of("cuda:0", ())


@pytest.mark.parametrize("parallel", [1, 2, 4, 8])
def test_it_is_found_how_many_run_at_once(parallel: int) -> None:
    """Of calls that come by chance, now and then as a crowd: within a quarter, from the first crowd on."""
    chance, served, at = random.Random(parallel), Served(parallel), 0.0
    served.ask(0.0, WORK_S)
    for crowd in range(12):
        at = served.now + 1.0
        for _ in range(4 * parallel):
            at += chance.expovariate(parallel * 3 / WORK_S)
            served.ask(at, WORK_S * chance.uniform(0.7, 1.3))
        served.run()
        work_ms, found = served.found()
        assert found is not None, f"crowd {crowd}"
        assert abs(found - parallel) <= max(0.25 * parallel, 1), f"crowd {crowd}"
        assert work_ms is not None
        assert work_ms / 1000 == pytest.approx(WORK_S, rel=0.3)


def test_those_that_do_not_wait_for_one_another_have_no_limit() -> None:
    """However many are under way: none takes longer than alone."""
    served = Served(64)
    for number in range(200):
        served.ask(number * WORK_S / 10, WORK_S)
    assert served.found() == (pytest.approx(WORK_S * 1000), None)


def test_a_limit_that_is_gone_is_forgotten() -> None:
    """A plugin that is loaded anew may have no lock any more."""
    served = Served(1)
    for number in range(8):
        served.ask(number * WORK_S / 4, WORK_S)
    served.run()
    assert served.found()[1] == 1
    served._free = [0.0] * 64
    start = served.now + 1.0
    for number in range(100):
        served.ask(start + number * WORK_S / 8, WORK_S)
    served.run()
    assert served.found()[1] in {None, 8}


def test_a_call_that_had_to_load_its_model_says_nothing_of_work() -> None:
    served = Served(4)
    served.ask(0.0, 9.0, "cold")
    assert served.pace.under_way() == {"cold": {"g": 1}}
    served.run()
    assert served.found() == (None, None)
    assert served.pace.under_way() == {}


def test_a_call_that_failed_says_nothing_of_work() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    pace.loaded((LOADED,), ("cuda:0",))
    pace.begin("1", "g", "m")
    now[0] = 0.001
    pace.end("1", done=False)
    assert pace.of("cuda:0", ()) == (None, None)


def test_a_long_call_of_one_model_is_not_the_work_of_another() -> None:
    """What is under way is expected to take what its own models' calls take."""
    served = Served(8)
    served.pace.loaded((LOADED, ModelView("long", ModelState.LOADED, device_id="cuda:0")), ("cuda:0",))
    served.ask(0.0, 9.0, "long")
    served.ask(10.0, 0.1, "m")
    served.run()
    assert served.pace.of("cuda:0", ("long",))[0] == pytest.approx(9000)
    assert served.pace.of("cuda:0", ("m", "m", "long"))[0] == pytest.approx((9000 + 200) / 3)
