"""The models' side, built when it is first asked for: a worker without models starts sooner."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from worker.core.sure_lock import SureLock

if TYPE_CHECKING:
    from worker.interface.models import ModelInterface


class LazyModels:
    """Builds it once."""

    def __init__(self, build: Callable[[], "ModelInterface"]) -> None:
        self._build = build
        self._lock = SureLock()
        # All mutable state: None until something asks for it.
        self._built: ModelInterface | None = None

    @property
    def built(self) -> "ModelInterface | None":
        """The models' side, if anything asked for it yet: a question about them alone does not build it."""
        return self._built

    def get(self) -> "ModelInterface":
        """Return the models' side. Builds it first if need be; then a file that can't be used ends the worker."""
        with self._lock:
            if self._built is None:
                self._built = self._build()
            return self._built
