"""Observing a device: whoever does it waits for no device that may hang."""

import threading
from pathlib import Path

import pytest

from protocol.vocabulary import PressureLevel
from tests.unit.isolation import isolated
from tests.unit.machine import MIB, Machine
from worker.backends.isolated import IsolatedBackend

PATIENCE_SECONDS = 20.0


def test_a_device_that_hangs_is_trimmed_at_its_own_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under pressure caches are given up beside: the thread that saw it, which may be the reading one, goes on."""
    hangs, asked, by = threading.Event(), threading.Event(), list[int]()

    def trim(_self: IsolatedBackend, _device_id: str) -> None:
        by.append(threading.get_ident())
        asked.set()
        hangs.wait(PATIENCE_SECONDS)

    monkeypatch.setattr(IsolatedBackend, "trim", trim)
    with isolated() as backend:
        machine = Machine(tmp_path, apart=(backend,))
        machine.watch.observe_one("sim:0")
        limits = machine.manager.devices.limits("sim:0")
        machine.allocate("sim:0", 240 * MIB)
        machine.watch.refresh(("sim:0",), max_age_ms=0)
        seen = machine.watch.observe_one("sim:0")
        assert limits.limit_bytes is None and seen.status.pressure_level is PressureLevel.HIGH
        assert asked.wait(PATIENCE_SECONDS)
        assert threading.get_ident() not in by
        hangs.set()
        machine.close()
