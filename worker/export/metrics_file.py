"""``--metrics-file PATH``: the figures as a file that is always whole, for a collector that reads files."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from protocol.vocabulary import HealthState
from worker.core.health import PartHealth
from worker.core.log import log
from worker.core.paths import shown
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureEvent
from worker.export.private_file import PRIVATE, Lock, check_own, create

_BEGINS = b"# HELP memory_worker_"
"""As every text of this does."""


class MetricsFile:
    """Writes on a thread of its own, every so often; a reader gets the old text or the new one.

    ``mode``: who may read it; a collector of another user's needs more than the default.
    """

    def __init__(self, path: Path, text: Callable[[], str], seconds: float, mode: int = PRIVATE) -> None:
        self._path = path
        self._next = path.with_name(f".{path.name}.next")
        """Beside it, for only there a rename is one step; no collector takes a name like that."""
        self._text = text
        self._seconds = seconds
        self._mode = mode
        self._lock: Lock | None = None
        self._ended = SureEvent()
        self._failure: str | None = None
        self._over: SureEvent | None = None
        """Set once the thread has ended."""

    def start(self) -> None:
        """Write now and every so often. OSError if the first does not succeed, another worker writes it, or it is somebody's."""
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(self._path.lstat().st_mode):
                raise OSError("it is there, and is no file: name another path")
        self._lock = Lock(self._path)
        try:
            check_own(self._path, _BEGINS)
            self._write()
            self._over = start_thread(self._run, "metrics")
        except BaseException:
            self._lock.close()
            raise

    def health(self) -> Iterator[PartHealth]:
        """Tell whether the file has the present figures."""
        failing = self._failure is not None
        yield PartHealth("metrics_file", HealthState.DEGRADED if failing else HealthState.OK, self._failure)

    def close(self) -> None:
        """Take the file away: figures of a worker that ended are no figures."""
        self._ended.set()
        if self._over is not None:
            self._over.wait(1.0)
        for path in (self._next, self._path):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                if self._ended.wait(self._seconds):
                    return
                self._write()
                self._failure = None
            except MemoryError:
                continue  # the next one may find some
            except Exception as error:  # noqa: BLE001 - said once, and tried on: a full disk may have space again
                before, self._failure = self._failure, str(error)
                if before is None:
                    told = {"path": shown(self._path), "error": self._failure}
                    log("warning", "the metrics file cannot be written", **told)

    def _write(self) -> None:
        self._next.unlink(
            missing_ok=True
        )  # what a killed worker left, or somebody put there for it to be followed
        with os.fdopen(create(self._next, self._mode), "w", encoding="utf-8") as file:
            file.write(self._text())
        self._next.replace(self._path)
