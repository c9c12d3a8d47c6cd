"""Models that are Python objects: what one takes is what the process grew by, libraries left out, counted once."""

import builtins
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.machine import MIB, Machine
from worker.core.models import ModelSpec
from worker.workers.weights import ModelObjects

LIBRARY = """
import {other}, sys
sys.modules["grown"].bytes += 200 * 2**20
"""
OTHER = """
import sys
sys.modules["grown"].bytes += 50 * 2**20
"""


class Grown:
    """A process that takes as much as is said here."""

    bytes = 100 * MIB

    def read(self) -> int:
        import resource  # noqa: F401 - reading it may import, too

        return self.bytes


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Grown]:
    """Return a process in which a library can be imported that takes 250 MiB, with another that it imports."""
    grown = Grown()
    monkeypatch.setitem(sys.modules, "grown", grown)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "large_library.py").write_text(LIBRARY.format(other="its_library"))
    (tmp_path / "its_library.py").write_text(OTHER)
    importlib.invalidate_caches()
    yield grown
    for name in ("large_library", "its_library"):
        sys.modules.pop(name, None)


def test_what_the_first_one_imports_is_not_its_size(process: Grown) -> None:
    """A library that the first model brings along stays when the model goes: it is no part of it."""
    objects, before = ModelObjects(process.read), builtins.__import__

    def make() -> object:
        import large_library

        process.bytes += 30 * MIB
        return large_library

    assert objects.load("a", make).actual_bytes == 30 * MIB
    assert objects.load("b", make).actual_bytes == 30 * MIB
    assert process.bytes == (100 + 250 + 60) * MIB
    assert builtins.__import__ is before


def test_imports_are_seen_no_longer_after_a_failure(process: Grown) -> None:
    """A maker that fails leaves the interpreter as it was."""
    before = builtins.__import__

    def make() -> object:
        raise LookupError("no")

    with pytest.raises(LookupError):
        ModelObjects(process.read).load("a", make)
    assert builtins.__import__ is before


def test_an_object_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model that is an object takes is the model's, and nothing that needs another explanation."""
    spec = ModelSpec("m", "module", factory="tests.rigs.model_factory:make", device_id="cpu")
    machine = Machine(tmp_path, models=(spec,))
    sizes = iter((100 * MIB, 100 * MIB, 130 * MIB))
    machine.process_bytes = lambda: next(sizes, 130 * MIB)
    machine.watch.refresh(("cpu",), max_age_ms=0)
    alone = machine.manager.pressure.status("cpu").unattributed_bytes
    machine.load("m")
    status = machine.manager.pressure.status("cpu")
    assert status.model_bytes == 30 * MIB
    assert alone is not None
    assert status.unattributed_bytes == alone - 30 * MIB  # this stand-in for a process did not grow
    machine.close()
    machine.watch.refresh(("cpu",), max_age_ms=0)
    assert machine.manager.pressure.status("cpu").unattributed_bytes == alone
