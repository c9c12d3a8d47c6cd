"""How much time is lost waiting for memory: Linux pressure stall information, of the group or the machine."""

from pathlib import Path

from protocol.vocabulary import Source
from worker.core.records import Signal, SignalKind
from worker.telemetry.process_groups import ProcessGroups, text_of

_KINDS = {"some": SignalKind.SOME_STALLED, "full": SignalKind.ALL_STALLED}


class MemoryStalls:
    """Reads the pressure file of this process's own control group (version 2), else the machine's."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._groups = ProcessGroups(root)
        self._machine = root / "proc/pressure/memory"

    def signals(self) -> tuple[Signal, ...]:
        """Return the shares of the last ten seconds; nothing where the kernel does not say."""
        own = [(folder / "memory.pressure", Source.CGROUP) for folder in self._groups.folders("")[:1]]
        for path, source in (*own, (self._machine, Source.OS)):
            # A kernel that was started without it still has the file, and refuses to read it.
            found = _parse(text_of(path))
            if found:
                return tuple(
                    Signal(f"stall_{name}_avg10_percentage", value, source, _KINDS[name])
                    for name, value in found.items()
                    if name in _KINDS
                )
        return ()


def _parse(text: str) -> dict[str, float]:
    """Read lines such as ``some avg10=0.12 avg60=0.05 avg300=0.00 total=4711``."""
    found = {}
    for line in text.splitlines():
        name, *pairs = line.split()
        averages = dict(pair.split("=", 1) for pair in pairs)
        if "avg10" in averages:
            found[name] = float(averages["avg10"])
    return found
