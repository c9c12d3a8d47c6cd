"""Who uses a device's process, and who replaces it: never both at once."""

import threading
from typing import Any, cast

import pytest

from protocol.vocabulary import DeviceKind, DeviceState, Executed
from tests.unit.isolation import never
from worker.backends.isolation import presence as presence_module
from worker.backends.isolation.child_process import ChildProcess
from worker.backends.isolation.presence import Presence
from worker.core.cancellation import CancelToken
from worker.core.errors import CancelledError, DeviceUnavailableError
from worker.core.records import DeviceInfo

DEVICE = DeviceInfo("sim:0", DeviceKind.SIMULATED, "d")


class Process:
    """Stands for one: there until it is replaced."""

    there = True


def present() -> tuple[Presence, Process]:
    """Make one that has a process."""
    presence, process = Presence((DEVICE,), lambda info: info), Process()
    presence.become((DEVICE,), cast(ChildProcess, process))
    return presence, process


def begin_to_replace(presence: Presence) -> tuple[threading.Thread, threading.Event]:
    """Have a thread replace the process; the event is set once it may."""
    replaced = threading.Event()

    def replace() -> None:
        with presence.exclusive(never()):
            replaced.set()

    replacing = threading.Thread(target=replace)
    replacing.start()
    return replacing, replaced


def test_a_process_in_use_is_not_replaced() -> None:
    """Whoever is to replace it waits for its users; a token that ends has it left alone, and used on."""
    presence, process = present()
    for _ in range(2):
        assert cast(Any, presence.enter("sim:0")) is process
    token = CancelToken(lambda: 0)
    token.cancel()
    with pytest.raises(CancelledError), presence.exclusive(token):
        pytest.fail("it is in use")
    presence.leave()
    with presence.using("sim:0", Executed.NO, waits=False):
        presence.leave()
        replacing, replaced = begin_to_replace(presence)
        assert not replaced.wait(0.1)
    assert replaced.wait(30)
    replacing.join()


def test_those_who_come_wait_for_those_who_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where always somebody uses it, whoever is to replace it has it all the same; a question that waits for no one is let in."""
    monkeypatch.setattr(presence_module, "_DRAINED_S", 30.0)
    presence, _ = present()
    presence.enter("sim:0")
    order: list[str] = []

    def replace() -> None:
        with presence.exclusive(never()):
            order.append("replaced")

    def use() -> None:
        with presence.using("sim:0", Executed.NO):
            order.append("used")

    replacing, using = threading.Thread(target=replace), threading.Thread(target=use)
    replacing.start()
    with presence.changed:
        assert presence.changed.wait_for(lambda: presence._draining, 30)
    using.start()
    with presence.using("sim:0", Executed.NO, waits=False):
        pass
    presence.leave()
    replacing.join(30)
    using.join(30)
    assert order == ["replaced", "used"]


def test_those_who_come_do_not_wait_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who uses it for long, and needs it again meanwhile, is not waited for by whom it would wait for."""
    monkeypatch.setattr(presence_module, "_DRAINED_S", 0.0)
    presence, _ = present()
    presence.enter("sim:0")
    replacing, replaced = begin_to_replace(presence)
    with presence.changed:
        assert presence.changed.wait_for(lambda: presence._awaited, 30)
    with presence.using("sim:0", Executed.NO):
        assert not replaced.is_set()
    presence.leave()
    replacing.join(30)
    assert replaced.is_set()


def test_whoever_comes_while_it_is_replaced() -> None:
    """Waits for the next process, for as long as its token lasts, or is refused if it does not wait."""
    presence, _ = present()
    next_one = Process()
    token = CancelToken(lambda: 0)
    token.cancel()
    with presence.exclusive(never()):
        with pytest.raises(DeviceUnavailableError, match="replaced"):
            presence.enter("sim:0", None, False)
        with pytest.raises(CancelledError):
            presence.enter("sim:0", token)
        entered: list[object] = []
        coming = threading.Thread(target=lambda: entered.append(presence.enter("sim:0")))
        coming.start()
        presence.give_up()
        presence.become((DEVICE,), cast(ChildProcess, next_one))
        assert not entered
    coming.join(30)
    assert entered == [next_one]


def test_users_and_replacements_at_once() -> None:
    """However they meet, a process is there for as long as somebody uses it."""
    presence, process = present()
    processes, over, seen = [process], threading.Event(), list[bool]()

    def use() -> None:
        while not over.is_set():
            with presence.using("sim:0", Executed.NO) as child:
                seen.append(cast(Process, child).there)

    users = [threading.Thread(target=use) for _ in range(3)]
    for each in users:
        each.start()
    for _ in range(200):
        with presence.exclusive(never()):
            presence.give_up()
            processes[-1].there = False
            processes.append(Process())
            presence.become((DEVICE,), cast(ChildProcess, processes[-1]))
    over.set()
    for each in users:
        each.join(60)
    assert all(seen)
    assert not presence._users


def test_a_device_that_is_not_usable() -> None:
    """Is refused, and so is one without a process; neither counts as used."""
    presence, _ = present()
    gone = DeviceInfo("sim:1", DeviceKind.SIMULATED, "d", DeviceState.UNAVAILABLE, "no")
    presence.become((DEVICE, gone), presence.child)
    with pytest.raises(DeviceUnavailableError, match="no"):
        presence.enter("sim:1")
    presence.give_up()
    with pytest.raises(DeviceUnavailableError):
        presence.enter("sim:0")
    assert not presence._users
