"""What the process grows by while libraries are imported: that is no part of the model that first needed them."""

import builtins
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self


class ImportGrowth:
    """Measures one thread's ``import`` statements while it is entered. Not for several at once."""

    def __init__(self, process_bytes: Callable[[], int | None]) -> None:
        self._process_bytes = process_bytes
        self._thread = threading.get_ident()
        self._inside = False
        self.bytes = 0

    def __enter__(self) -> Self:
        """Begin."""
        self._import = builtins.__import__
        builtins.__import__ = self._measured  # the one place that every import statement goes through
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        builtins.__import__ = self._import

    def _measured(self, *arguments: Any, **named: Any) -> Any:
        if self._inside or threading.get_ident() != self._thread:
            return self._import(*arguments, **named)
        self._inside = True  # what an import imports is its own; measuring may import, too
        before = self._process_bytes()
        try:
            return self._import(*arguments, **named)
        finally:
            after = self._process_bytes()
            if before is not None and after is not None:
                self.bytes += max(0, after - before)
            self._inside = False
