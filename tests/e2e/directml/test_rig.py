"""The real torch_directml on the simulated machine does what a DirectML backend is built upon."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.directml import environment
from tests.rigs.directml.build import UnavailableError
from tests.rigs.directml.rig import GIB, Factory, Rig
from tests.rigs.directml.wheel import Wheel, WheelError

MIB = 2**20
FILL = "held = []\nwhile True: held.append(empty(200_000_000))"


def ask_dxcore(rig: Rig, pid: int = 0, **knobs: Any) -> tuple[list[Any], list[Any]]:
    """Return the adapters as DXCore lists them in a third process, unsorted and sorted."""
    script = Path(__file__).with_name("dxcore.py")
    ran = subprocess.run(
        [sys.executable, str(script), str(pid)],
        env={**os.environ, **rig.environment(**knobs)},
        stdout=subprocess.PIPE,
        check=True,
    )
    unsorted, in_order = json.loads(ran.stdout)
    return unsorted, in_order


def test_a_tiled_pool_lives_as_long_as_its_process(directml_python: Path, directml_rig: Rig) -> None:
    """Adapters in DXCore's order, software left out; a pool frozen at its creation, that only a death returns."""
    witness = directml_rig.witness
    knobs: dict[str, Any] = {
        "adapters": 3,
        "budget_bytes": [4 * GIB, GIB, 2 * GIB],
        "hardware": [True, False, True],
        "float64": False,
    }
    with Wheel(directml_python, directml_rig.environment(**knobs)) as wheel:
        assert wheel.run("dml.is_available(), dml.device_count(), dml.has_float64_support(0)") == [
            True,
            2,
            False,
        ]
        names = wheel.run("[dml.device_name(i) for i in range(2)]")
        assert names == ["Simulated GPU 0\0", "Simulated GPU 2\0"]

        wheel.run("host = torch.arange(10**6, dtype=torch.int32)\nfirst = host.to(dml.device(0))")
        wheel.run("first[1000:2000] = 7\nhost[1000:2000] = 7")
        assert wheel.run("torch.equal(first.cpu(), host)"), "a slice is written in place"
        assert wheel.run("torch.equal(first.to(dml.device(1)).cpu(), host)") is False, "between devices: lost"
        assert wheel.run("int(first.zero_().cpu().max())") == 0
        assert witness.living()[wheel.pid].staging_bytes > 0

        witness.set_budget(0, GIB)
        wheel.run("held = [empty(700_000_000) for _ in range(3)]")
        filled = witness.device_bytes()
        assert 2_100_000_000 < filled < 4 * GIB, "the budget at its creation holds"
        wheel.run("held.clear()")
        assert wheel.run("sum(dml.gpu_memory(0, 1))") < 10
        assert witness.device_bytes() == filled, "nothing is returned"

        _, (seen, software, other) = ask_dxcore(directml_rig, wheel.pid, **knobs)
        assert seen["budget"][:2] == [GIB, 0], (
            "the switch moves what DXCore grants; its usage is the caller's"
        )
        assert seen["adapter_usage"] == [filled, filled]
        assert seen["process_usage"] == [filled, filled, 1]
        assert (software["is_hardware"], other["process_usage"][0]) == (False, witness.device_bytes(2))

        wheel.run("wrapped = empty(4 * 2**30 + 2**20)")
        assert wheel.run("wrapped.numel(), round(sum(dml.gpu_memory(0, 1)) / 10)") == [4 * GIB + MIB, 1]
        with pytest.raises(
            WheelError, match="Could not allocate tensor with 3000000000 bytes. There is not enough"
        ):
            wheel.run("held = [empty(3_000_000_000, 1)]")

        wheel.kill()
        assert [witness.device_bytes(adapter) for adapter in range(3)] == [0, 0, 0]
        assert witness.holding(wheel.pid).peak_bytes == filled
    _, (seen, *_) = ask_dxcore(directml_rig, wheel.pid, **knobs)
    assert seen["process_usage"] == [0, 0, 0], "DXCore does not find the dead"


def test_a_tiled_pool_dies_where_the_driver_refuses(directml_python: Path, directml_rig: Rig) -> None:
    """More budget than memory: it says so on stderr and is gone, by a signal."""
    knobs = directml_rig.environment(budget_bytes=8 * GIB, physical_limit_bytes=GIB)
    with Wheel(directml_python, knobs) as wheel:
        with pytest.raises(EOFError, match="DML allocator out of memory!"):
            wheel.run(FILL)
        assert wheel.process.returncode == -signal.SIGSEGV
        last = directml_rig.witness.holding(wheel.pid)
    assert (last.refused_count > 0, last.peak_bytes <= GIB) == (True, True)


def test_untiled_memory_goes_back_on_a_flush(directml_python: Path, directml_rig: Rig) -> None:
    """No budget, an error where the driver refuses, and 512 small tensors that push out what was freed."""
    witness = directml_rig.witness
    knobs = directml_rig.environment(budget_bytes=GIB, physical_limit_bytes=2 * GIB)
    with Wheel(directml_python, knobs) as wheel:
        wheel.run("dml.disable_tiled_resources(True)\nkept = empty(100_000_000)")
        wheel.run("empty(500_000_000)\nempty(300_000_000)")
        assert (witness.device_bytes(), wheel.run("dml.gpu_memory(0, 1)")) == (900_000_000, [])
        wheel.run("small = [empty(16) for _ in range(512)]\nsmall.clear()")
        assert 100_000_000 <= witness.device_bytes() < 100_100_000

        with pytest.raises(WheelError, match="^RuntimeError: Unknown error -2147024882$"):
            wheel.run(FILL)
        assert wheel.run("len(held)") == (2 * GIB - 100_000_000) // 200_000_000, "past the budget"
        assert witness.living()[wheel.pid].refused_count == 1
        assert wheel.run("held.clear()") is None, "and it goes on"

        witness.set_device_hung(0)
        wheel.send("kept.cpu().numel()")
        witness.set_device_hung(0, hung=False)
        assert wheel.answer() == 100_000_000
        witness.set_device_removed(0)
        with pytest.raises(WheelError, match="^RuntimeError: Unknown error -2005270523$"):
            wheel.run("empty(12345)")  # not a readback: that races (see the rig's README)


def test_two_processes_share_one_machine(directml_python: Path, directml_rig: Rig) -> None:
    """The driver's limit is for all of them; hardware without tiles has no pool."""
    knobs = directml_rig.environment(physical_limit_bytes=GIB, tiled=False)
    with Wheel(directml_python, knobs) as one, Wheel(directml_python, knobs) as other:
        one.run("held = empty(700_000_000)")
        with pytest.raises(WheelError, match="-2147024882"):
            other.run("held = empty(700_000_000)")
        living = directml_rig.witness.living()
        assert {pid: holding.heap_count for pid, holding in living.items()} == {one.pid: 0, other.pid: 0}
        one.kill()
        other.run("held = empty(700_000_000)")
        assert directml_rig.witness.device_bytes() == 700_000_000


def test_no_adapter_is_an_answer_and_a_failing_factory_an_error(
    directml_python: Path, directml_rig: Rig
) -> None:
    """No adapter: not available. Where DXCore itself fails, the question raises."""
    none = directml_rig.environment(adapters=0)
    fails = directml_rig.environment(factory=Factory.FAILS)
    with Wheel(directml_python, none) as wheel, Wheel(directml_python, fails) as failing:
        assert wheel.run("dml.is_available(), dml.device_count()") == [False, 0]
        with pytest.raises(WheelError, match="^RuntimeError: Unknown error -2147467259$"):
            failing.run("dml.is_available()")


def test_a_probe_can_crash_or_hang(directml_python: Path, directml_rig: Rig) -> None:
    """A crash is death by a signal; one that hangs holds nothing and has to be killed."""
    crashes = directml_rig.environment(factory=Factory.CRASHES)
    hangs = directml_rig.environment(factory=Factory.HANGS)
    with Wheel(directml_python, crashes) as wheel, Wheel(directml_python, hangs) as hanging:
        hanging.run("1")
        hanging.send("dml.is_available()")
        with pytest.raises(EOFError):
            wheel.run("dml.is_available()")
        assert wheel.process.returncode == -signal.SIGSEGV
        assert hanging.process.poll() is None
        hanging.kill()
    assert directml_rig.witness.living() == {}


def test_dxcore_describes_the_machine(directml_rig: Rig) -> None:
    """Best adapter first once sorted; without usage states DXCore knows only the caller, as on older Windows."""
    unsorted, in_order = ask_dxcore(
        directml_rig,
        adapters=2,
        budget_bytes=[4 * GIB, 2 * GIB],
        physical_limit_bytes=3 * GIB,
        integrated=[False, True],
        usage_states=False,
    )
    assert unsorted == in_order[::-1]
    first, second = in_order
    assert [one["name"] for one in in_order] == ["Simulated GPU 0", "Simulated GPU 1"]
    assert [one["luid"] for one in in_order] == [0x1000, 0x1001]
    assert [one["budget"] for one in in_order] == [[4 * GIB, 0, 2 * GIB, 0], [2 * GIB, 0, GIB, 0]]
    assert (first["dedicated_bytes"], first["is_integrated"]) == (3 * GIB, False)
    assert (second["dedicated_bytes"], second["is_integrated"]) == (0, True)
    assert (first["adapter_usage"], first["process_usage"]) == (None, None)


def test_an_installation_asks_first_and_looks_at_the_disk(
    directml_libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 GB are fetched only where that is wanted and fits; one that was cut short does not count as there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MEMORY_WORKER_DIRECTML", raising=False)
    monkeypatch.delenv("CI", raising=False)
    half = tmp_path / "memory-worker" / "torch-directml" / "bin" / "python"
    half.parent.mkdir(parents=True)
    half.touch()
    with pytest.raises(UnavailableError, match="MEMORY_WORKER_DIRECTML=1 installs it"):
        environment.interpreter()
    assert half.exists()
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(environment, "PYTHONS", (sys.version_info[:2],))
    monkeypatch.setattr(environment, "FREE_BYTES", 2**62)
    with pytest.raises(UnavailableError, match="bytes free"):
        environment.interpreter()
    assert not half.exists()
