"""DirectML under the driver's budget: demoted, told of a new one, and refused before the driver runs out."""

import os
from queue import SimpleQueue

import pytest

from protocol.vocabulary import Source
from tests.e2e.directml.isolated import GIB, MIB, TOKEN, Start, ask, contents, fill, start
from tests.rigs.directml.rig import Rig
from worker.core.errors import OutOfMemoryError

__all__ = ["start"]


@pytest.mark.parametrize("allocator", ["untiled", "tiled"])
def test_demotion(start: Start, directml_rig: Rig, allocator: str) -> None:
    """What the driver moved to system memory when the budget fell is told to the byte, and that it came back.

    What copies go through lies there all the time, and is not counted.
    """
    backend = start(allocator, budget_bytes=2 * GIB, demotes=True)
    backend.allocate("a", ask(600 * MIB), TOKEN)
    backend.write("a", 0, memoryview(bytes(64 * MIB)), TOKEN)
    assert backend.readings("dml:0").process_demoted_bytes == 0
    held = directml_rig.witness.device_bytes()
    directml_rig.witness.set_budget(0, 400 * MIB)
    found = backend.readings("dml:0")
    assert found.process_used_bytes == 400 * MIB
    assert found.process_demoted_bytes == held - 400 * MIB
    assert found.demoted_bytes is not None
    assert found.demoted_bytes >= held - 400 * MIB  # the staging of all processes, too
    assert "demoted_percentage" in [each.name for each in found.signals]
    assert found.free_bytes is not None
    with pytest.raises(OutOfMemoryError):
        backend.allocate("b", ask(found.free_bytes + 900 * MIB), TOKEN)
    directml_rig.witness.set_budget(0, None)
    assert backend.readings("dml:0").process_demoted_bytes == 0


def test_the_budget_is_asked_for_once_a_block(start: Start, directml_rig: Rig) -> None:
    """On Windows each question may be a new query of PDH's, or a factory of DXGI's: a block that comes and goes costs one."""
    backend = start(budget_bytes=2 * GIB)
    pid = backend.pid
    assert pid is not None
    before, count = directml_rig.witness.holding(pid).asked_count, 400
    for _ in range(count):
        backend.allocate("a", ask(4096), TOKEN)
        backend.free("a")
    asked = directml_rig.witness.holding(pid).asked_count - before
    assert count <= asked < 1.5 * count, (
        "beside the blocks', those of the page of figures: twenty a second at most"
    )


@pytest.mark.parametrize("allocator", ["untiled", "tiled"])
def test_a_new_budget_is_told_of(start: Start, directml_rig: Rig, allocator: str) -> None:
    """DXCore says so, and the figures that are noted then are of the new one, although nobody asked."""
    backend = start(allocator, budget_bytes=4 * GIB)
    told: SimpleQueue[str] = SimpleQueue()
    backend.watch_figures(told.put)
    assert "DXCore tells of each change of the budget of: dml:0" in backend.notes()
    for budget in (3 * GIB, 5 * GIB):
        directml_rig.witness.set_budget(0, budget)
        assert told.get(timeout=60) == "dml:0"
        noted = backend.recent_readings("dml:0", None)
        assert noted is not None
        assert noted[0].budget_bytes == budget
    backend.restart(TOKEN)
    directml_rig.witness.set_budget(0, 4 * GIB)
    assert told.get(timeout=60) == "dml:0"


def test_a_dxcore_that_tells_of_no_budget(start: Start, directml_rig: Rig) -> None:
    """As on an older Windows: it is looked at, and the notes say so."""
    backend = start(notifies=False)
    assert any(note.startswith("DXCore tells of no change of the budget") for note in backend.notes())


def test_pool_made_under_a_small_budget(start: Start, directml_rig: Rig) -> None:
    """It is full, and does not say that it never will be: a new process has what today's budget leaves."""
    directml_rig.witness.set_budget(0, 320 * MIB)
    backend = start("tiled", budget_bytes=GIB)
    directml_rig.witness.set_budget(0, GIB)
    with pytest.raises(OutOfMemoryError):
        backend.allocate("a", ask(100 * MIB), TOKEN)
    backend.restart(TOKEN, 100 * MIB)
    backend.allocate("a", ask(100 * MIB), TOKEN)
    with pytest.raises(OutOfMemoryError, match="nothing was restarted"):
        backend.restart(TOKEN, 900 * MIB)


def test_untiled_survives_the_driver_running_out(start: Start, directml_rig: Rig) -> None:
    """A driver that refuses is an error, what is cached makes room first, and the process stays."""
    backend = start("untiled", budget_bytes=8 * GIB, physical_limit_bytes=GIB, usage_states=False)
    (pid,) = directml_rig.witness.living()
    assert backend.readings("dml:0").used_bytes is None
    backend.allocate("a", ask(600 * MIB), TOKEN)
    with pytest.raises(OutOfMemoryError) as caught:
        backend.allocate("b", ask(500 * MIB), TOKEN)
    assert caught.value.details["requested_bytes"] == 500 * MIB
    backend.write("a", 0, memoryview(b"there"), TOKEN)
    assert contents(backend, "a", 0, 5) == b"there"
    backend.free("a")
    # Below what is worth a flush by itself: 32 resources of 31 MiB stay cached until they are in the way.
    for n in range(31):
        backend.allocate(f"s{n}", ask(31 * MIB), TOKEN)
    backend.allocate("c", ask(20 * MIB), TOKEN)
    backend.free("c")
    assert directml_rig.witness.device_bytes() > 980 * MIB
    backend.allocate("d", ask(40 * MIB), TOKEN)
    assert set(directml_rig.witness.living()) == {pid}


def test_tiled_stops_before_the_driver_runs_out(start: Start, directml_rig: Rig) -> None:
    """The pool is not grown past what the driver has: that would end the process."""
    backend = start("tiled", budget_bytes=8 * GIB, physical_limit_bytes=2 * GIB)
    (pid,) = directml_rig.witness.living()
    got = fill(backend, 100 * MIB)
    assert got >= 9
    data = os.urandom(MIB)
    for n in range(got):
        backend.write(f"a{n}", 7, memoryview(data), TOKEN)
        assert contents(backend, f"a{n}", 7, MIB) == data
    assert set(directml_rig.witness.living()) == {pid}


@pytest.mark.parametrize("allocator", ["untiled", "tiled"])
def test_budget_that_shrinks(start: Start, directml_rig: Rig, allocator: str) -> None:
    """A budget that the system takes back binds from then on, and one that it gives again does too."""
    backend = start(allocator, budget_bytes=4 * GIB, physical_limit_bytes=8 * GIB)
    backend.allocate("a", ask(GIB), TOKEN)
    directml_rig.witness.set_budget(0, GIB + GIB // 4)
    found = backend.readings("dml:0")
    assert found.budget_bytes == GIB + GIB // 4
    assert found.budget_source is Source.DXCORE
    with pytest.raises(OutOfMemoryError):
        backend.allocate("b", ask(GIB), TOKEN)
    directml_rig.witness.set_budget(0, None)
    backend.allocate("b", ask(GIB), TOKEN)
    assert backend.live() == {"a", "b"}
