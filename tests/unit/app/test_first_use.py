"""What is made at its first use is made before it."""

import worker.app.serve  # noqa: F401 - all that a worker has from its start
from tests.e2e.process import eventually
from tests.e2e.process import worker as started_worker
from tests.rigs.unmade_plugin import unmade
from worker.app.first_use import first_uses


def test_nothing_is_left_to_be_made() -> None:
    """Every kind of record and of model can be used without being made first; done twice, it changes nothing."""
    for _ in range(2):
        for make in first_uses():
            make()
        assert unmade() == []


def test_a_worker_makes_them_while_nothing_is_asked() -> None:
    """Soon after its first answer nothing is left that a shortage could keep from being made."""
    with started_worker("--plugin", "tests.rigs.unmade_plugin") as peer:
        eventually(lambda: peer.call("test.unmade") == {"names": []}, "kinds made")
