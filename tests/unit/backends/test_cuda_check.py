"""The checks that are meant for a real GPU, as far as a device that is played on the CPU has what they ask of one.

What needs the hardware itself is not run here: other processes on it, pace, streams, a dead context, kills.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import cuda_check, cuda_checks
from tests.rigs.torch_on_cpu import TorchOnCpu, backend_on_cpu

TOTAL_BYTES = 6 * 2**30
HERE = ("context", "figures", "returned", "fraction")


class Driver:
    """The witness: what the device says that it has, or something else."""

    def __init__(self, device: TorchOnCpu) -> None:
        self.device = device
        self.hidden_bytes = 0

    def mem_get_info(self, _index: int) -> tuple[int, int]:
        memory = self.device.memory()
        return memory.free_bytes - self.hidden_bytes, TOTAL_BYTES

    def smi_value(self, name: str) -> int:
        memory = self.device.memory()
        used, free = memory.used_bytes + self.hidden_bytes, memory.free_bytes
        return {"memory.total": TOTAL_BYTES, "memory.used": used, "memory.free": free, "memory.reserved": 0}[
            name
        ]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Return the witness of a device that the checks find."""
    device = TorchOnCpu(TOTAL_BYTES)
    made = Driver(device)
    monkeypatch.setattr(cuda_checks, "made", lambda: _probed(device))
    monkeypatch.setattr(cuda_checks, "smi_value", made.smi_value)
    monkeypatch.setattr(torch.cuda, "mem_get_info", made.mem_get_info)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share: setattr(device, "fraction", share)
    )
    monkeypatch.setenv("CHECKED_ALLOCATOR", "default")
    return made


def _probed(device: TorchOnCpu) -> object:
    backend = backend_on_cpu(device, time.monotonic_ns)
    backend.probe()
    return backend


def said(capsys: pytest.CaptureFixture[str], check: Callable[[], None]) -> list[str]:
    """Run a check; returns its verdicts."""
    check()
    return [line.partition(" ")[0] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("tests", "verdict"),
    [
        (("tests/conformance/test_torch.py::TestTorchOnCpu::test_write_and_read",), "PASS"),
        (("tests/conformance/test_torch.py::TestTorchOnCpu::test_nothing_of_that_name",), "FAIL"),
        (("{wrong}",), "FAIL"),
        (("{skipped}",), "FAIL"),
    ],
)
def test_conformance(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tests: tuple[str, ...],
    verdict: str,
) -> None:
    """It is green only where all tests passed, and there were some: not where one fails, is skipped, or is not found."""
    wrong, skipped = tmp_path / "test_wrong.py", tmp_path / "test_skipped.py"
    wrong.write_text("def test_wrong():\n    assert False\n")
    skipped.write_text(
        "import pytest\ndef test_skipped():\n    pytest.skip('no device')\ndef test_right(): pass\n"
    )
    chosen = tuple(each.format(wrong=wrong, skipped=skipped) for each in tests)
    monkeypatch.setattr(cuda_checks, "CONFORMANCE", chosen)
    assert said(capsys, cuda_checks.conformance) == [verdict]


def test_what_takes_too_long_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it has one limit: a check that has no time left is told of, and is no success."""
    monkeypatch.setattr(cuda_check, "LIMIT_S", 0.0)
    assert cuda_check.run_all(["figures"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "FAIL figures [default]: ['it was not done after 0 s']"
    assert lines[-1].startswith("FAIL all of it (goal: none fails, took_s < 0): failed=1")


@pytest.mark.parametrize("name", HERE)
def test_a_check_passes_where_the_figures_are_true(
    driver: Driver, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Every verdict is given, and none of them is a failure."""
    verdicts = said(capsys, cuda_checks.CHECKS[name])
    assert "PASS" in verdicts
    assert set(verdicts) <= {"PASS", "INFO"}


def test_a_check_fails_where_the_driver_has_something_else(
    driver: Driver, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Used bytes that are not in the total, and a block that does not go back, are seen."""
    driver.hidden_bytes = 2**30
    assert "FAIL" in said(capsys, cuda_checks.figures)
    empty_cache, driver.hidden_bytes = driver.device.empty_cache, 0

    def hides() -> None:
        empty_cache()
        driver.hidden_bytes += 64 * 2**20

    monkeypatch.setattr(driver.device, "empty_cache", hides)
    assert said(capsys, cuda_checks.returned).count("FAIL") >= 2
