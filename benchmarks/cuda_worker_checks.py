"""The checks of ``benchmarks.cuda_check`` that drive a whole worker as a host does: its words are held to the driver's figures."""

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil

from benchmarks.cuda_checks import (
    DEVICE,
    GIB,
    MIB,
    MOST_CONTEXT_BYTES,
    MOST_OFF_BYTES,
    driver_used,
    say,
    until,
)
from benchmarks.harness import Peer, interleaved, seconds
from benchmarks.model_load import write_model

MODEL_BYTES = 2 * GIB
ROUNDS = 5
PLACES = {"in the worker": (), "in a process of its own": ("--isolate", "cuda")}


def models() -> None:
    """Models come, make room for one another and go as the driver shows; a process that is killed loses nothing for good."""
    for where, worker, _ in _workers():
        _come_and_go(worker, where)
        _make_room(worker, where)
        if PLACES[where]:
            _come_back(worker)


def loading() -> None:
    """A load out of the page cache keeps up with safetensors' own reader."""
    for where, worker, folder in _workers():
        ours, theirs = partial(_load, worker), partial(_load_by_safetensors, folder / "a.safetensors")
        ours()
        theirs()
        own, peer = interleaved(ROUNDS, ours, theirs)
        say(
            f"loading keeps up [{where}]",
            own <= 1.1 * peer,
            "at most 1.1 of safetensors' load_file",
            ratio=round(own / peer, 2),
            gib_per_second=round(MODEL_BYTES / GIB / own, 1),
        )


CHECKS: dict[str, Callable[[], None]] = {each.__name__: each for each in (models, loading)}


def _load(worker: Peer) -> float:
    taken = seconds(lambda: worker.ask("memory.load_model", model_id="a", device_id=DEVICE))
    worker.ask("memory.unload_model", model_id="a")
    return taken


def _load_by_safetensors(path: Path) -> float:
    import torch  # noqa: PLC0415 - importing torch takes seconds, which who has no CUDA device need not wait for
    from safetensors.torch import load_file  # noqa: PLC0415 - of this check alone

    tensors: list[object] = []

    def work() -> None:
        tensors.append(load_file(path, device=DEVICE))
        torch.cuda.synchronize()

    taken = seconds(work)
    tensors.clear()
    torch.cuda.empty_cache()
    return taken


def _come_and_go(worker: Peer, where: str) -> None:
    """Measured and returned bytes are what the driver shows taken and given."""
    worker.ask("memory.load_model", model_id="a", device_id=DEVICE)  # a context grows with the first copy
    worker.ask("memory.unload_model", model_id="a")
    before = driver_used()
    loaded = worker.ask("memory.load_model", model_id="a", device_id=DEVICE)
    full = driver_used()
    unloaded = worker.ask("memory.unload_model", model_id="a")
    after = driver_used()
    off = (
        abs(loaded["measured_bytes"] - (full - before)),
        abs((unloaded["returned_bytes"] or 0) - (full - after)),
    )
    say(
        f"a model takes and gives what is told [{where}]",
        max(off) <= MOST_OFF_BYTES,
        f"within {MOST_OFF_BYTES} bytes",
        measured=loaded["measured_bytes"],
        taken=full - before,
        returned=unloaded["returned_bytes"],
        given=full - after,
        load_ms=loaded["load_ms"],
    )


def _make_room(worker: Peer, where: str) -> None:
    """Where one model fits the next takes its place; a need that nothing can meet is refused, and evicts nothing."""
    free = worker.ask("memory.get_status", device_id=DEVICE, refresh=True)["devices"][0]["available_bytes"]
    filler = worker.ask("memory.allocate", size_bytes=free - MODEL_BYTES - GIB, device_id=DEVICE)
    worker.ask("memory.load_model", model_id="a", device_id=DEVICE)
    full = driver_used()
    second = worker.ask("memory.load_model", model_id="b", device_id=DEVICE, make_room=True)
    swapped = driver_used()
    gone = [each["model_id"] for each in second["models_unloaded"]]
    try:
        worker.ask("memory.allocate", size_bytes=MODEL_BYTES + 2 * GIB, device_id=DEVICE, make_room=True)
        beyond = "granted"
    except RuntimeError as error:
        beyond = error.args[0]["code"]
    stayed = worker.ask("memory.get_model_status", model_id="b")["models"][0]["state"]
    worker.ask("memory.deallocate", allocation_id=filler["allocation_id"])
    worker.ask("memory.unload_model", model_id="b")
    said = gone, beyond, stayed
    say(
        f"room is made [{where}]",
        said == (["a"], "out_of_memory", "loaded") and abs(swapped - full) <= MOST_OFF_BYTES,
        f"a goes for b, the driver's figure stays within {MOST_OFF_BYTES} bytes, a need beyond all is refused",
        gone=gone,
        beyond=beyond,
        b=stayed,
        one_model=full,
        the_other=swapped,
    )


def _come_back(worker: Peer) -> None:
    """A model whose device's process is killed loads again at its next use, and nothing of the old one stays."""
    worker.ask("memory.load_model", model_id="a", device_id=DEVICE)
    before = driver_used()
    child = next(
        each for each in psutil.Process(worker.pid).children() if "bootstrap" in " ".join(each.cmdline())
    )
    child.kill()
    child.wait(10)
    begun = time.monotonic()
    until(lambda: worker.ask("memory.load_model", model_id="a", device_id=DEVICE), RuntimeError)
    taken, after = time.monotonic() - begun, driver_used()
    say(
        "a killed process's model comes back",
        MODEL_BYTES <= after <= before + MOST_CONTEXT_BYTES,
        f"the driver shows at most {MOST_CONTEXT_BYTES} bytes more than before",
        before=before,
        after=after,
        seconds=round(taken, 1),
    )


def _workers() -> Iterator[tuple[str, Peer, Path]]:
    """Yield a worker with models ``a`` and ``b`` whose device is there, for each place of the device; and the models' folder."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name in ("a", "b"):
            write_model(folder / f"{name}.safetensors", MODEL_BYTES)
        file = folder / "models.yaml"
        file.write_text("models:\n  a: {path: a.safetensors}\n  b: {path: b.safetensors}\n")
        for where, options in PLACES.items():
            with Peer("-m", "worker", "--models", str(file), "--model-root", made, *options) as worker:
                until(lambda: worker.ask("memory.allocate", size_bytes=MIB, device_id=DEVICE), RuntimeError)
                yield where, worker, folder
