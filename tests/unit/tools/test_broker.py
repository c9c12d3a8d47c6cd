"""What a broker says of what happens: a line each, as who subscribes is told it."""

import pytest

from protocol.results import Eviction, ReleasedMemory
from protocol.vocabulary import PressureLevel
from worker.core.actions import ClearCache, Recommended, Step
from worker.core.events import Event, ModelUnloaded, Optimized
from worker.tools.broker import narrate

MIB = 2**20

CLEARED = Step(Recommended(ClearCache("cpu"), MIB, None, "", "it is idle"), MIB)
GIVEN = ReleasedMemory("server:ollama", "ollama", 2 * MIB, 2 * MIB, 1.0, "cheap")


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            Optimized("cpu", PressureLevel.HIGH, (CLEARED,), 3 * MIB, 3 * MIB, True, 30_000, "", (GIVEN,)),
            "cpu automatic: gave caches up, asked server:ollama: high pressure lasted; it helped: 3.0 MiB returned of 3.0 MiB promised; nothing more for 30s",
        ),
        (
            ModelUnloaded(Eviction("o/m", "cpu", 0, MIB, None, "unloaded: its owner says so")),
            "cpu o/m went, 1.0 MiB: unloaded: its owner says so",
        ),
        (
            ModelUnloaded(Eviction("o/m", "cpu", 0, 0, None, "not counted any more: nothing answers there")),
            "cpu o/m went: not counted any more: nothing answers there",
        ),
    ],
)
def test_an_event_is_a_line(event: Event, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever it is made of; what did not come back is not said to have."""
    narrate(event)
    assert capfd.readouterr().err.partition(" ")[2] == f"{said}\n"
