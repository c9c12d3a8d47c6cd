"""What starts nodes, and keeps a roster up to date: the directory is followed, the nodes' processes, and the machines that Ray has."""

import time
from contextlib import suppress
from typing import Any

import ray

from protocol.actions import ACTIONS
from worker.core.errors import DeviceUnavailableError
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureEvent
from worker.fleet.links import LOST
from worker.fleet.roster import Roster
from worker.fleet.words import Since
from worker.stream.failures import wire_error

_PATIENCE_SECONDS = 0.5
"""How long the directory keeps a question that has no answer yet, and until a node that did not start is asked again."""
_MACHINES_SECONDS = 2.0
"""How often it is looked which machines Ray has."""
_CREATION = "creation task"
"""What Ray says of an actor that failed to start, and would again."""


class Following:
    """How far the following has come: its thread's alone."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._since = Since()
        self._looked = 0.0
        self._question: Any = None
        self._ended: SureEvent | None = None

    def start(self, patience: float) -> None:
        """Start every node that is not there, and wait until each has told of itself. Raises what one did not start for."""
        deadline = time.monotonic() + patience
        self._roster.look_for_machines()
        self._ended = start_thread(self._run, "fleet-following")
        for name in self._roster.names():
            self._roster.plugins |= frozenset(self._actions_of(name, deadline)) - ACTIONS.keys()
        self._roster.all_told(deadline)

    def close(self, patience: float) -> None:
        """Have every node free what this gateway has there, and follow nothing any more."""
        self._roster.close(patience)
        if self._ended is not None:
            self._ended.wait(_MACHINES_SECONDS)

    # ---- inside ----

    def _actions_of(self, name: str, deadline: float) -> tuple[str, ...]:
        """Ask a node what its worker can do; one that is killed meanwhile is started again, unless its machine is gone."""
        while True:
            handle = self._roster.handle(name)
            try:
                found = ray.get(handle.hello.remote(), timeout=deadline - time.monotonic())
            except (*LOST, ray.exceptions.GetTimeoutError) as error:
                if time.monotonic() >= deadline or _CREATION in str(error):
                    raise DeviceUnavailableError(f"{name} did not start: {_last_words(error)}") from None
                if self._roster.forget_gone(name):
                    return ()
                time.sleep(_PATIENCE_SECONDS)
            else:
                actions: tuple[str, ...] = found["actions"]
                return actions

    def _run(self) -> None:
        """Follow until the roster is closed: the guard of this thread."""
        while not self._roster.closed:
            try:
                self._follow()
            except LOST:  # the directory is started again by Ray
                self._question = None
                time.sleep(_PATIENCE_SECONDS / 5)
            except Exception as error:  # noqa: BLE001 - a bug: the thread must not end
                wire_error(error, "following the directory", None)
                self._question = None
                time.sleep(_PATIENCE_SECONDS)

    def _follow(self) -> None:
        roster = self._roster
        if time.monotonic() - self._looked > _MACHINES_SECONDS:
            self._looked = time.monotonic()
            with suppress(*LOST, ValueError):
                roster.look_for_machines()
        if self._question is None:
            self._question = roster.directory.follow.remote(roster.gateway, self._since, _PATIENCE_SECONDS)
        awaited = [self._question, *roster.watches()]
        ready, _ = ray.wait(awaited, timeout=_MACHINES_SECONDS)
        for ref in ready:
            if ref is self._question:
                self._question = None
                self._since = roster.hear(ray.get(ref))
            else:
                roster.note_end(ref)


def _last_words(error: BaseException) -> str:
    """Return what Ray says of an actor's end, in one line: the error that it was, where there was one."""
    lines = [each.strip() for each in str(error).strip().splitlines() if each.strip()]
    return next((each for each in reversed(lines) if "Error:" in each), lines[0] if lines else repr(error))
