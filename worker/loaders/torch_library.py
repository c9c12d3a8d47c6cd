"""Whether torch can be used here: asked before anything goes for a load that needs it, as its import may fail in many ways."""

from functools import cache
from importlib.util import find_spec

from worker.core.models import ModelSpec
from worker.loaders.base import load_failed

INSTALL_TORCH = "pip install memory-worker[torch]"


def check_installed(spec: ModelSpec, what_for: str = "") -> None:
    """See that torch is there, without importing it. ModelLoadFailedError with what to do where it is not."""
    if find_spec("torch") is None:
        raise load_failed(spec, f"{what_for}it needs torch, which is not installed: {INSTALL_TORCH}")


def check_imported(spec: ModelSpec, what_for: str = "") -> None:
    """Import torch: seconds, once. ModelLoadFailedError, which names what its import failed with, where it can't be."""
    check_installed(spec, what_for)
    fault = _fault()
    if fault is not None:
        advice = f"mend it, as by {INSTALL_TORCH} --force-reinstall, and start the worker anew"
        raise load_failed(spec, f"{what_for}it needs torch, which can't be imported: {fault}; {advice}")


@cache
def _fault() -> str | None:
    """Say why torch can't be imported; None where it can. Of the first try: a second one fails with something else."""
    try:
        import torch  # noqa: PLC0415 - seconds, and only where it is needed

        torch.frombuffer  # noqa: B018 - a folder that is left of an installation is a package without it
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever its own code, or a library of its, raises
        return f"{type(error).__name__}: {error}"
    return None
