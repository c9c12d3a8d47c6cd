"""How much time is lost waiting for memory: Linux pressure stall information, of the group or the machine."""

from pathlib import Path

from protocol.vocabulary import Source
from worker.core.records import Gauge, GaugeKind
from worker.telemetry.cgroup import group_folders

_KINDS = {"some": GaugeKind.SOME_STALLED, "full": GaugeKind.ALL_STALLED}


class MemoryStalls:
    """Reads the pressure file of this process's own control group (version 2), else the machine's."""

    def __init__(self, root: Path = Path("/")) -> None:
        own = [(folder / "memory.pressure", Source.CGROUP) for folder in group_folders("", root)[:1]]
        files = [*own, (root / "proc/pressure/memory", Source.OS)]
        # A kernel that was started without it still has the file, and refuses to read it.
        self._file = next(((path, source) for path, source in files if _parse(path)), None)

    def gauges(self) -> tuple[Gauge, ...]:
        """Return the shares of the last ten seconds; nothing where the kernel does not say."""
        if self._file is None:
            return ()
        path, source = self._file
        return tuple(
            Gauge(f"stall_{name}_avg10_percentage", value, source, _KINDS[name])
            for name, value in _parse(path).items()
            if name in _KINDS
        )


def _parse(path: Path) -> dict[str, float]:
    """Read lines such as ``some avg10=0.12 avg60=0.05 avg300=0.00 total=4711``."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, *pairs = line.split()
        averages = dict(pair.split("=", 1) for pair in pairs)
        if "avg10" in averages:
            found[name] = float(averages["avg10"])
    return found
