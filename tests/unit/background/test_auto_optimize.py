"""The automatic mode: acts when it has to, leaves off when it does not help, and never fights the user."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.vocabulary import ModelState, OptimizationLevel, PressureLevel
from tests.rigs.model_files import spec, write_model
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.background.auto_optimize import AutoOptimizer
from worker.core.actions import UnloadModel
from worker.core.consumers import Offer
from worker.core.events import ModelUnloaded, Optimized, ReleaseRequested
from worker.manager.consumer_table import Registration
from worker.policy.auto import (
    COOL_DOWN_MAX_NS,
    COOL_DOWN_NS,
    HOUR_NS,
    MOST_PER_HOUR,
    PROTECTED_NS,
    SUSTAINED_NS,
    AutoState,
    decide,
    learn,
    regret,
)

S = 10**9
HIGH, CRITICAL, MODERATE, LOW = (
    PressureLevel.HIGH,
    PressureLevel.CRITICAL,
    PressureLevel.MODERATE,
    PressureLevel.LOW,
)


def test_only_what_is_sustained() -> None:
    """A level has to last; a moment below it begins the wait anew."""
    state, effort = decide(AutoState(), HIGH, HIGH, 0)
    assert effort is None
    assert decide(state, HIGH, HIGH, SUSTAINED_NS - 1)[1] is None
    assert decide(state, HIGH, HIGH, SUSTAINED_NS)[1] is OptimizationLevel.NORMAL
    broken, _ = decide(state, MODERATE, HIGH, SUSTAINED_NS - 1)
    assert decide(broken, HIGH, HIGH, SUSTAINED_NS)[1] is None


@pytest.mark.parametrize(
    ("level", "restraint", "effort"),
    [
        (MODERATE, 0, OptimizationLevel.CONSERVATIVE),
        (HIGH, 0, OptimizationLevel.NORMAL),
        (CRITICAL, 0, OptimizationLevel.AGGRESSIVE),
        (CRITICAL, 1, OptimizationLevel.NORMAL),
        (CRITICAL, 2, OptimizationLevel.CONSERVATIVE),
        (MODERATE, 2, OptimizationLevel.CONSERVATIVE),
    ],
)
def test_effort(level: PressureLevel, restraint: int, effort: OptimizationLevel) -> None:
    """It goes as far as the level asks, less what it learned."""
    state = AutoState(sustained_since_ns=0, restraint=restraint)
    assert decide(state, level, MODERATE, SUSTAINED_NS)[1] is effort


@pytest.mark.parametrize(
    ("percentage", "level", "effort"),
    [
        (84.9, MODERATE, None),
        (85.0, LOW, OptimizationLevel.NORMAL),
        (85.0, MODERATE, OptimizationLevel.NORMAL),
        (99.0, CRITICAL, OptimizationLevel.AGGRESSIVE),
        (None, CRITICAL, None),
    ],
)
def test_a_percentage_is_as_good_as_a_level(
    percentage: float | None, level: PressureLevel, effort: OptimizationLevel | None
) -> None:
    """From there on, whatever the level is called, it goes as far as at high; what can't be told is not there."""
    state = AutoState(sustained_since_ns=0)
    assert decide(state, level, 85.0, SUSTAINED_NS, percentage)[1] is effort


def test_what_helped_and_what_did_not() -> None:
    """Without help it pauses ever longer, and does less; help after some peace makes that good again."""
    state, now = AutoState(), 0
    state = learn(state, helped=True, now_ns=now)
    assert state.quiet_until_ns == COOL_DOWN_NS
    pauses = []
    for _ in range(10):
        state = learn(state, helped=False, now_ns=now)
        pauses.append(state.quiet_until_ns)
    assert pauses == [min(COOL_DOWN_NS * 2**n, COOL_DOWN_MAX_NS) for n in range(1, 11)]
    assert state.restraint == 2
    soon = learn(state, helped=True, now_ns=COOL_DOWN_MAX_NS)
    assert (soon.cool_down_ns, soon.restraint) == (COOL_DOWN_MAX_NS, 2)
    later = learn(state, helped=True, now_ns=2 * COOL_DOWN_MAX_NS)
    assert (later.cool_down_ns, later.restraint) == (COOL_DOWN_MAX_NS // 2, 1)
    assert regret(AutoState(), 0).quiet_until_ns == 2 * COOL_DOWN_NS


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.sampled_from([LOW, HIGH, CRITICAL]), st.booleans()), max_size=400
    )
)
def test_whatever_the_load_does(steps: list[tuple[int, PressureLevel, bool]]) -> None:
    """However levels jump and actions turn out: pauses are kept, and an hour has at most so many actions."""
    state, now, acted = AutoState(), 0, []
    for later, level, helps in steps:
        now += later * S
        state, effort = decide(state, level, HIGH, now)
        if effort is not None:
            acted.append(now)
            state = learn(state, helped=helps, now_ns=now)
    assert all(b - a >= COOL_DOWN_NS for a, b in itertools.pairwise(acted))
    for at in acted:
        assert sum(at - HOUR_NS < other <= at for other in acted) <= MOST_PER_HOUR


# ---- with real models, on a simulated device ----

MODEL = 8 * MIB
NAMES = ("a", "b", "c")


class Rig:
    """A machine with three models of 8 MiB on a device of 32 MiB, and the automatic mode."""

    def __init__(self, folder: Path, trigger: PressureLevel | float = HIGH) -> None:
        specs = []
        for seed, name in enumerate(NAMES):
            path = folder / f"{name}.safetensors"
            write_model(path, MODEL, seed=seed)
            specs.append(spec(path, device_id="sim:0", keep_alive_ns=None))
        self.machine = Machine(folder, SimulatedDevice(total_bytes=32 * MIB), models=tuple(specs))
        self.memory = self.machine.memory
        self.busy = False
        self.auto = AutoOptimizer(self.machine.core, self.memory, self._submit, trigger)

    def _submit(self, _device_id: str, act: Any) -> bool:
        if not self.busy:
            act(self.machine.token())
        return not self.busy

    def fill(self) -> None:
        """Load all models, wait until none is protected any more, and take what is left but a MiB."""
        for name in NAMES:
            self.machine.load(name)
        self.machine.pass_time(PROTECTED_NS)
        self.machine.allocate("sim:0", 7 * MIB)

    def load_dear(self) -> None:
        """Load all models, each as if that had taken seconds: the clock stands meanwhile."""
        for name in NAMES:
            self.machine.load(name)
            self.machine.manager.models.get(name).load_ms = 4000

    def give(self, entries: list[str], event: ReleaseRequested) -> None:
        """Give back as a consumer whose entries are a MiB each."""
        count = -(-event.bytes // MIB)
        for _ in range(count):
            self.memory.allocations.deallocate(entries.pop(), force=True)
        self.memory.consumers.released(event.consumer_id, count * MIB)

    def seconds(self, count: int) -> None:
        """Let time pass, looking every second."""
        for _ in range(count):
            self.machine.pass_time(S)
            self.memory.sample()
            self.auto.consider("sim:0")

    def loaded(self) -> set[str]:
        """Return the models that are loaded."""
        rows = self.memory.models.status(None, ("cpu", "sim:0")).models
        return {row.model_id for row in rows if row.state is ModelState.LOADED}

    def actions(self) -> list[Optimized]:
        """Return what was told of actions."""
        return self.machine.told(Optimized)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Return one."""
    made = Rig(tmp_path)
    yield made
    made.machine.close()


def test_it_makes_room_and_says_why(rig: Rig) -> None:
    """Under lasting pressure the cheapest idle model goes, no more than has to, and it is told with the reason."""
    rig.fill()
    rig.seconds(4)
    assert rig.loaded() == set(NAMES)
    rig.seconds(10)
    assert len(rig.loaded()) == 2
    (told,) = rig.actions()
    assert (told.device_id, told.pressure_level, told.helped) == ("sim:0", CRITICAL, True)
    (step,) = told.steps
    assert isinstance(step.recommended.action, UnloadModel)
    assert step.returned_bytes == step.recommended.expected_freed_bytes == MODEL
    unloaded = rig.machine.told(ModelUnloaded)
    assert unloaded[0].eviction.reason.startswith("automatic: sim:0 was under critical pressure")
    rig.seconds(300)
    assert len(rig.actions()) == 1


def test_a_model_that_is_not_declared_any_more_is_regretted_no_more(rig: Rig) -> None:
    """One that it unloaded may be gone from the file of models by then: it looks on, and acts again."""
    rig.fill()
    rig.seconds(14)
    stay = rig.loaded()
    rig.machine.models.reload([each.spec for each in rig.machine.manager.models if each.model_id in stay], ())
    rig.machine.allocate("sim:0", 8 * MIB)
    rig.seconds(300)
    assert len(rig.loaded()) == 1
    assert len(rig.actions()) == 2


def test_it_keeps_what_was_just_used_pinned_or_in_use(rig: Rig) -> None:
    """What the user loads or pins stays, also under pressure that lasts."""
    rig.machine.load("a", pin=True)
    rig.machine.load("b")
    rig.machine.allocate("sim:0", 14 * MIB)
    for _ in range(60):
        rig.machine.load("b")
        rig.seconds(5)
    assert rig.loaded() == {"a", "b"}
    assert rig.actions() == []


def test_it_yields_to_work_that_runs(rig: Rig) -> None:
    """While the device works for the user it waits, and acts when that is over."""
    rig.machine.load("a")
    rig.machine.allocate("sim:0", 23 * MIB)
    rig.machine.pass_time(PROTECTED_NS)
    rig.busy = True
    rig.seconds(60)
    assert rig.loaded() == {"a"}
    rig.busy = False
    rig.seconds(2)
    assert rig.loaded() == set()


def test_it_does_nothing_below_its_level(tmp_path: Path) -> None:
    """With critical asked for, high is let be."""
    rig = Rig(tmp_path, CRITICAL)
    rig.machine.load("a")
    rig.machine.allocate("sim:0", 21 * MIB)
    rig.machine.pass_time(PROTECTED_NS)
    assert rig.machine.manager.pressure.level("sim:0") is HIGH
    rig.seconds(120)
    assert rig.loaded() == {"a"}
    rig.machine.close()


def test_a_load_that_makes_it_thrash(rig: Rig) -> None:
    """A user who loads again whatever goes is let have it: few actions in hours, and ever fewer."""
    rig.machine.allocate("sim:0", 7 * MIB)
    by_hour = []
    for _ in range(4):
        before = len(rig.actions())
        for _ in range(900):
            for name in set(NAMES) - rig.loaded():
                rig.machine.load(name)
            rig.machine.pass_time(PROTECTED_NS // 20)
            rig.seconds(1)
        by_hour.append(len(rig.actions()) - before)
    assert by_hour[0] <= MOST_PER_HOUR
    assert all(each <= 3 for each in by_hour[1:])


def test_pressure_that_it_cannot_help(rig: Rig) -> None:
    """Where allocations of the user's fill the device, nothing is done, and nothing is told."""
    rig.machine.allocate("sim:0", 32 * MIB)
    rig.seconds(600)
    assert rig.actions() == []


def test_a_cheaper_consumer_gives_way_before_a_model(rig: Rig) -> None:
    """By itself, too, the cheapest bytes go first, no more of them than it takes to leave the level; it is told who gave."""
    rig.load_dear()
    entries = [rig.machine.allocate("sim:0", MIB) for _ in range(7)]
    offers = (Offer(7 * MIB, 7.0, "", divisible=True),)
    rig.memory.consumers.register(Registration("cache", "cache", "sim:0", 7 * MIB, 0, offers))

    rig.machine.on_release_requested = partial(rig.give, entries)
    rig.machine.pass_time(PROTECTED_NS)
    rig.seconds(10)
    (told,) = rig.actions()
    assert (told.steps, told.helped) == ((), True)
    assert [(each.consumer_id, each.returned_bytes) for each in told.released] == [("cache", 3 * MIB)]
    assert told.released[0].reason.startswith("cache: ")
    assert rig.machine.told(ReleaseRequested)[0].reason.startswith(
        "automatic: sim:0 was under critical pressure"
    )
    assert rig.loaded() == set(NAMES)


def test_consumers_are_asked_all_at_once(rig: Rig) -> None:
    """Of several that are needed none waits for another's word, as it is with a request."""
    rig.load_dear()
    entries = {
        name: [rig.machine.allocate("sim:0", MIB) for _ in range(count)]
        for name, count in (("one", 3), ("other", 4))
    }
    for name, own in entries.items():
        offers = (Offer(2 * MIB, 2.0, "", divisible=True),)
        rig.memory.consumers.register(Registration(name, "cache", "sim:0", len(own) * MIB, 0, offers))
    asked = list[ReleaseRequested]()

    def give(event: ReleaseRequested) -> None:
        asked.append(event)
        for each in asked if len(asked) == 2 else ():
            rig.give(entries[each.consumer_id], each)

    rig.machine.on_release_requested = give
    rig.machine.pass_time(PROTECTED_NS)
    rig.seconds(10)
    (told,) = rig.actions()
    assert {each.consumer_id for each in told.released} == {"one", "other"}
    assert rig.loaded() == set(NAMES)


@pytest.mark.parametrize("trigger", [HIGH, 85.0])
def test_a_cap_takes_nothing_of_others(tmp_path: Path, trigger: PressureLevel | float) -> None:
    """Pressure that comes of the worker's own cap no consumer can help: none is asked, again and again."""
    rig = Rig(tmp_path, trigger)
    relief, asked = rig.memory.relief, list[ReleaseRequested]()
    relief.set_limits("sim:0", replace(relief.limits("sim:0"), limit_bytes=8 * MIB))
    offers = (Offer(7 * MIB, 7.0, "", divisible=True),)
    rig.memory.consumers.register(Registration("cache", "cache", "sim:0", 7 * MIB, 0, offers))
    rig.machine.on_release_requested = asked.append
    rig.machine.allocate("sim:0", 8 * MIB)
    rig.seconds(60)
    assert (asked, rig.actions()) == ([], [])
    rig.machine.close()


def test_from_a_percentage_on(tmp_path: Path) -> None:
    """Idle models go until the device is below it, and are let be as long as it is."""
    rig = Rig(tmp_path, 60.0)  # 24 MiB of 32 are 75 %
    for name in NAMES:
        rig.machine.load(name)
    rig.seconds(4)
    assert rig.loaded() == set(NAMES)
    rig.seconds(70)
    assert len(rig.loaded()) == 2  # 50 %
    rig.seconds(600)
    assert len(rig.loaded()) == 2
    told = rig.machine.told(Optimized)[0]
    assert "at 60 % of its budget or above" in told.reason


def test_consumers_give_way_from_a_percentage_below_all_levels(tmp_path: Path) -> None:
    """Where the operator wants relief from half of the budget on, consumers are asked there, and no further than below it."""
    rig = Rig(tmp_path, 50.0)
    entries = [rig.machine.allocate("sim:0", MIB) for _ in range(20)]  # of 32 MiB: 62.5 %
    offers = (Offer(20 * MIB, 7.0, "", divisible=True),)
    rig.memory.consumers.register(Registration("cache", "cache", "sim:0", 20 * MIB, 0, offers))

    rig.machine.on_release_requested = partial(rig.give, entries)
    rig.seconds(60)
    (told,) = rig.actions()
    assert [(each.consumer_id, each.returned_bytes) for each in told.released] == [("cache", 5 * MIB)]
    assert told.helped
    rig.machine.close()
