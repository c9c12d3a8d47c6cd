"""A model's file on a share that does not answer, while the device's process reads it."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from protocol.vocabulary import DeviceState
from tests.e2e.process import eventually
from tests.rigs.model_files import spec, write_model
from tests.rigs.stalled_share import StalledShare, stalled_share
from tests.unit.isolation import MIB, SIMULATED, ask, content_of, fill, isolated, never
from worker.backends.isolated import IsolatedBackend
from worker.backends.isolation import child_process
from worker.core.cancellation import CancelToken
from worker.core.errors import CancelledError, OutOfMemoryError
from worker.loaders.placing import place_through
from worker.loaders.registry import loader_of

pytestmark = pytest.mark.usefixtures("rigs")

MODEL_BYTES = 33 * MIB


@pytest.fixture
def share(tmp_path: Path) -> Iterator[StalledShare]:
    """Return a share with a model's file."""
    write_model(tmp_path / "m.safetensors", MODEL_BYTES)
    content = (tmp_path / "m.safetensors").read_bytes()
    with stalled_share(tmp_path / "share", {"m.safetensors": content}) as mounted:
        yield mounted


def give_up_a_load(backend: IsolatedBackend, share: StalledShare, *, opening: bool = False) -> int:
    """Begin a load whose file stops answering the device's process, and cancel it. Returns what it holds."""
    before = backend.readings("sim:0").resident_bytes
    loader = loader_of(wanted := spec(share.path / "m.safetensors"))
    token, ended = CancelToken(lambda: 0), list[BaseException]()
    with closing(loader.open(wanted)) as file:  # type: ignore[union-attr]  # it is a FileLoader

        def load() -> None:
            try:
                backend.load(
                    "m", ask(file.total_bytes), lambda _, write: place_through(file, write, token), token
                )
            except CancelledError as error:
                ended.append(error)

        share.stall(opening=opening, of=backend.pid)
        loading = threading.Thread(target=load)
        loading.start()
        share.wait_until_asked()
        backend.allocate("meanwhile", ask(MIB), never())
        assert backend.readings("sim:0").resident_bytes == before + file.total_bytes + MIB
        token.cancel()
        loading.join(30)
    assert len(ended) == 1
    # Who cancels hears of it after a quarter of a second, whatever the process has heard by then.
    eventually(lambda: stuck(backend), "the process has given it up")
    backend.free("meanwhile")
    return file.total_bytes


def stuck(backend: IsolatedBackend) -> int:
    """Return what is told to be stuck."""
    return backend.readings("sim:0").stuck_bytes


@pytest.mark.parametrize("factory", [
    SIMULATED, *(f"misbehaving_backends:{each}" for each in (
        "TakesTurns", "takes_turns_where_pages_are_had", "takes_turns_where_pages_are_touched",
    )),
])  # fmt: skip
def test_a_load_that_was_given_up_holds_its_memory_until_its_file_answers(
    share: StalledShare, factory: str
) -> None:
    """Its end is told at once and the device goes on; what it holds is told apart, and is free once the share answers."""
    with isolated(factory) as backend:
        backend.probe()
        expected = fill(backend, "a", MIB, 1)
        held = give_up_a_load(backend, share)
        seen = backend.readings("sim:0")
        assert (seen.stuck_bytes, seen.resident_bytes) == (held, MIB)
        assert seen.free_bytes == seen.total_bytes - MIB - held  # type: ignore[operator]
        assert content_of(backend, "a", MIB) == expected
        share.answer()
        eventually(lambda: not stuck(backend), "it is given back")
        assert backend.readings("sim:0").free_bytes == 255 * MIB
        assert backend.live() == {"a"}


def test_another_process_gives_back_what_a_load_that_hangs_holds(share: StalledShare) -> None:
    """What lives is carried over; what hangs needs no place in the new process, nor a share that answers."""
    with isolated() as backend:
        backend.probe()
        expected = fill(backend, "a", MIB, 1)
        held = give_up_a_load(backend, share)
        with pytest.raises(OutOfMemoryError):
            backend.restart(never(), 256 * MIB)
        done = backend.restart(never(), 255 * MIB)
        assert (done.returned_bytes, done.moved) == (held, 1)
        assert content_of(backend, "a", MIB) == expected
        assert (stuck(backend), backend.readings("sim:0").free_bytes) == (0, 255 * MIB)


def test_a_process_that_can_not_even_be_killed_is_replaced(
    share: StalledShare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits in the kernel for a file to be opened outlives SIGKILL: it is waited for so long, and then left."""
    monkeypatch.setattr(child_process, "_GOING_S", 0.1)
    with isolated() as backend:
        backend.probe()
        expected = fill(backend, "a", MIB, 1)
        held = give_up_a_load(backend, share, opening=True)
        before = backend.pid
        assert backend.restart(never()).returned_bytes == held
        assert backend.pid != before
        assert content_of(backend, "a", MIB) == expected


def test_the_end_waits_so_long_and_no_longer(share: StalledShare, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that neither its input's end nor SIGKILL ends is left behind."""
    monkeypatch.setattr(child_process, "_GOING_S", 0.1)
    monkeypatch.setattr(child_process, "_ASKED_S", 0.1)
    with isolated() as backend:
        backend.probe()
        give_up_a_load(backend, share, opening=True)
        backend.close()
        assert {each.state for each in backend.devices} == {DeviceState.LOST}
