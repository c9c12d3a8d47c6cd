"""What Python objects take, by the line that made them: ``--trace-python N``. Slows the worker, hence opt-in."""

import tracemalloc

_LINES = 20


class PythonMemory:
    """Python's own tracing, from now on."""

    def __init__(self, frames: int) -> None:
        tracemalloc.start(frames)

    def lines(self) -> dict[str, int]:
        """Return the bytes of the lines that hold most."""
        own = (tracemalloc.Filter(inclusive=False, filename_pattern=tracemalloc.__file__),)
        rows = tracemalloc.take_snapshot().filter_traces(own).statistics("lineno")
        return {f"{row.traceback[0].filename}:{row.traceback[0].lineno}": row.size for row in rows[:_LINES]}
