"""What a placement costs, term by term: a turn on a loaded model, a load, making room. Pure; in milliseconds."""

from collections.abc import Sequence

from worker.fleet.views import FileLocation, ModelView, PriceStep

DISK_BYTES_PER_S = 500_000_000
"""Of a file on a node's own disk, until it was measured: what SATA solid-state disks read."""

LINK_BYTES_PER_S = 117_000_000
"""Of a file on a share, until it was measured: what one Gbit/s of Ethernet carries of a file."""


def turn_ms(model: ModelView, ahead: int = 0) -> float:
    """Return how long one more lease of a loaded model waits for its turn; ``ahead``: leases its view does not know of."""
    if model.parallel is None or not model.work_ms:
        return 0.0
    waiting = model.in_use + ahead + 1 - model.parallel
    return max(0, waiting) * model.work_ms / model.parallel


def load_ms(model: ModelView, size_bytes: int) -> float:
    """Return what loading a model takes: as measured there, else by how fast its file is read."""
    if model.load_ms is not None:
        return model.load_ms
    usual = DISK_BYTES_PER_S if model.file is FileLocation.LOCAL else LINK_BYTES_PER_S
    return size_bytes * 1000 / (model.read_bytes_per_s or usual)


def room_ms(steps: Sequence[PriceStep], missing_bytes: int) -> float | None:
    """Return what making so much room costs, taken in the node's order; None where there is too little to be had."""
    cost = 0.0
    for step in steps:
        if missing_bytes <= 0:
            break
        if step.divisible and step.bytes > missing_bytes:
            cost += step.cost_ms * missing_bytes / step.bytes
        else:
            cost += step.cost_ms
        missing_bytes -= step.bytes
    return None if missing_bytes > 0 else cost
