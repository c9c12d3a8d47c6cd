"""Something that happens on another thread, at a moment of this one's."""

import sys
import threading
from collections.abc import Callable
from typing import Any

from worker.core.cancellation import wait_for_change


class Beside:
    """Something done on another thread, begun at a moment of this one's and gone on with after it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.result: Any = None
        self.waited = False
        self._work = work
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start it, and return once it waits for a model or has ended. The first time only."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        while self._thread.is_alive() and not self.waited:
            frame = sys._current_frames().get(self._thread.ident or 0)
            while frame is not None and not self.waited:
                self.waited = frame.f_code is wait_for_change.__code__
                frame = frame.f_back

    def end(self) -> Any:
        """Wait for its end, and return what it returned or raise what it raised."""
        assert self._thread is not None, "the moment never came"
        self._thread.join(60)
        assert not self._thread.is_alive()
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    def _run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised again by end
            self.result = error
