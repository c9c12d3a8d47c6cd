"""Something that happens on another thread, at a moment of this one's."""

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from worker.core.cancellation import wait_for_change


class Beside:
    """Something done on another thread, begun at a moment of this one's and gone on with after it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.result: Any = None
        self.waited = False
        self._work = work
        self._moved = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start it, and return once it waits for a model or has ended. The first time only."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._moved.wait(60)

    def end(self) -> Any:
        """Wait for its end, and return what it returned or raise what it raised."""
        assert self._thread is not None, "the moment never came"
        self._thread.join(60)
        assert not self._thread.is_alive()
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    def _run(self) -> None:
        sys.setprofile(self._note)  # of this thread: another one's frames can't be walked while it runs
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised again by end
            self.result = error
        finally:
            sys.setprofile(None)
            self._moved.set()

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is wait_for_change.__code__:  # with the lock that it waits on
            self.waited = True
            self._moved.set()
