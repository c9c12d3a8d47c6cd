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
from worker.fleet.words import START_SECONDS, Since
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
        self._look_at = 0.0
        self._question: Any = None
        self._ended: SureEvent | None = None

    def start(self, own: str) -> None:
        """Start the gateway's own node, and wait until it has told of itself; then the others, which are not waited for.

        DeviceUnavailableError with the reason where its own does not start.
        """
        deadline = time.monotonic() + START_SECONDS
        self._roster.look_for_machines(only=own)  # alone: side by side each takes as long as all of them
        self._roster.plugins = frozenset(self._actions_of(own, deadline)) - ACTIONS.keys()
        self._look_at = deadline
        while self._roster.view(own) is None:
            if time.monotonic() >= deadline:
                raise DeviceUnavailableError(
                    f"{own} started, and did not tell of itself in {START_SECONDS:.0f} s"
                )
            self._step()
        self._look()
        self._ended = start_thread(self._run, "fleet-following")

    def close(self, patience: float) -> None:
        """Have every node free what this gateway has there, and follow nothing any more."""
        self._roster.close(patience)
        if self._ended is not None:
            self._ended.wait(_MACHINES_SECONDS)

    # ---- inside ----

    def _actions_of(self, name: str, deadline: float) -> tuple[str, ...]:
        """Ask a node what its worker can do; one that is killed meanwhile is started again."""
        while True:
            handle = self._roster.handle(name)
            try:
                found = ray.get(handle.hello.remote(), timeout=deadline - time.monotonic())
            except (*LOST, ray.exceptions.GetTimeoutError) as error:
                if time.monotonic() >= deadline or _CREATION in str(error):
                    raise DeviceUnavailableError(f"{name} did not start: {_last_words(error)}") from None
                time.sleep(_PATIENCE_SECONDS)
            else:
                actions: tuple[str, ...] = found["actions"]
                return actions

    def _run(self) -> None:
        """Follow until the roster is closed."""
        while not self._roster.closed:
            self._step()

    def _step(self) -> None:
        """Wait for what is told next: the guard of this thread."""
        try:
            self._follow()
        except LOST:  # the directory is started again by Ray
            self._question = None
            time.sleep(_PATIENCE_SECONDS / 5)
        except Exception as error:  # noqa: BLE001 - a bug: the thread must not end
            wire_error(error, "following the directory", None)
            self._question = None
            time.sleep(_PATIENCE_SECONDS)

    def _look(self) -> None:
        self._look_at = time.monotonic() + _MACHINES_SECONDS
        with suppress(*LOST, ValueError):
            self._roster.look_for_machines()

    def _follow(self) -> None:
        roster = self._roster
        if time.monotonic() > self._look_at:
            self._look()
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
