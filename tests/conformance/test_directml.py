"""The real torch_directml, by either of its allocators, on a simulated Direct3D 12 machine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.vocabulary import DeviceKind, DeviceState
from tests.conformance.contract import BackendContract
from tests.rigs.directml.rig import Rig
from worker.backends.base import DeviceBackend
from worker.backends.isolated import IsolatedBackend
from worker.backends.isolation.child_process import Launch
from worker.core.clock import SystemClock
from worker.core.records import DeviceInfo


@pytest.fixture(scope="session")
def directml(
    directml_python: Path, directml_libraries: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], DeviceBackend]]:
    """Return what makes the real torch_directml on a simulated machine, once each: its import takes seconds."""
    made: dict[str, IsolatedBackend] = {}

    def make(allocator: str) -> IsolatedBackend:
        if allocator not in made:
            rig = Rig(directml_libraries, tmp_path_factory.mktemp(allocator))
            launch = Launch(
                str(directml_python), "worker.backends.directml:DirectMlBackend", {"allocator": allocator}
            )
            expected = (DeviceInfo("dml:0", DeviceKind.DIRECTML, "DirectML"),)
            made[allocator] = backend = IsolatedBackend(launch, expected, SystemClock())
            with pytest.MonkeyPatch.context() as patch:
                for name, value in rig.environment(budget_bytes=2**30).items():
                    patch.setenv(name, value)
                assert backend.probe()[0].state is DeviceState.AVAILABLE
        return made[allocator]

    yield make
    for backend in made.values():
        backend.close()


def emptied(made: DeviceBackend) -> Iterator[DeviceBackend]:
    """Hand a backend out, and free whatever a test left on it."""
    yield made
    for name in made.live():
        made.free(name)
    made.trim("dml:0")
    assert made.live() == frozenset()


class TestUntiled(BackendContract):
    """Each block is a resource of its own, and goes back at once."""

    @pytest.fixture
    def backend(self, directml: Callable[[str], DeviceBackend]) -> Iterator[DeviceBackend]:
        """Return it, empty."""
        yield from emptied(directml("untiled"))


class TestTiled(BackendContract):
    """A pool of tiles that only the end of its process gives back."""

    never_shrinks = True

    @pytest.fixture
    def backend(self, directml: Callable[[str], DeviceBackend]) -> Iterator[DeviceBackend]:
        """Return it, empty."""
        yield from emptied(directml("tiled"))
