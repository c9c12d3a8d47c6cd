"""Engines: does the memory come back, and what does a process of their own cost?

Run: python -m benchmarks.engines [--quick]. Fetches an OCR model once; the 512 MiB one and the stand-in are made.

- cycles: load, run, unload, 20 times, of both models: drift is what the worker and all its processes have more after the
  last cycle than after the second, by the system; returned is what the receipt says against what the system shows.
- a library that keeps 98 % of what it took.
- load: through the worker against the library used directly, cold (a new process each; the worker has read the file's
  header before, as it does at its start) and warm (one that has the library), in turns; warm also against the library used directly by who gives free pages back to the system after each
  model, as the engine's process does: they have to be had again.
- calls: inference through the engine's process against the same in this process, in turns, by size of the tensors.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil

from protocol.vocabulary import UnloadMode
from tests.rigs import engines as stand_in
from tests.rigs import onnx_files, onnx_work
from tests.unit.machine import Machine
from worker.backends.engines.host import _trim_heap
from worker.core.clock import SystemClock
from worker.core.models import ModelSpec
from worker.loaders import registry
from worker.plugins._leases import Models
from worker.stream.work import Call
from worker.telemetry.process_figures import private_bytes
from worker.telemetry.system import SystemMemory

MIB = 2**20
_DIRECT = "import sys, time; began = time.perf_counter(); import onnxruntime as o; s = o.SessionOptions(); s.intra_op_num_threads = 1; o.InferenceSession(sys.argv[1], s, providers=['CPUExecutionProvider'])"


def machine(folder: Path, *specs: ModelSpec) -> Machine:
    shared = folder / "shared"
    shared.mkdir(exist_ok=True)
    return Machine(shared, models=specs, clock=SystemClock(), system=SystemMemory())


def onnx(name: str, path: Path) -> ModelSpec:
    return ModelSpec(name, "onnx", path, path.parent, params=(("intra_op_num_threads", 1),))


def do(worker: Machine, model_id: str, work: Callable[..., Any], **data: Any) -> Any:
    with Models(worker.models, worker.clock).use(model_id) as weights:
        return weights.do(work, data, Call(worker.token(), lambda _done, _total: None))


def taken() -> int:
    """Return what this process and its children take of the machine, but for files."""
    pids = [os.getpid(), *(each.pid for each in psutil.Process().children(recursive=True))]
    return sum(private_bytes(pid) or 0 for pid in pids)


def engine_bytes() -> int:
    return sum(private_bytes(each.pid) or 0 for each in psutil.Process().children())


def cycles(worker: Machine, model_id: str, count: int, work: Callable[..., Any], **data: Any) -> None:
    after, off, ended = [], [], 0
    for _ in range(count):
        worker.load(model_id)
        do(worker, model_id, work, **data)
        before = engine_bytes()
        row = worker.memory.models.unload(model_id, UnloadMode.UNLOAD, worker.token())
        shown = before - engine_bytes()
        returned = (row.returned_bytes or 0) + (row.process_returned_bytes or 0)
        off.append(abs(returned - shown) / max(1, shown))
        ended += row.process_returned_bytes is not None
        after.append(taken())
    drift = after[-1] - after[1]
    print(
        f"{model_id}: {count} cycles, claimed {(row.claimed_bytes or 0) / MIB:.1f} MiB, returned {(row.returned_bytes or 0) / MIB:.1f} MiB in the last; "
        f"process ended in {ended}; drift {drift / MIB:+.2f} MiB (span {(max(after[1:]) - min(after[1:])) / MIB:.2f}); "
        f"receipt off by {100 * max(off):.2f} % at most"
    )


def keeping(folder: Path) -> None:
    registry.BUILT_IN["stand-in"] = ("tests.rigs.engines", "StandInLoader")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    path = folder / "keeps.model"
    path.write_text(json.dumps({"bytes": 256 * MIB, "keeps": 0.98}))
    worker = machine(folder, ModelSpec("keeps 98 %", "stand-in", path, folder))
    cycles(worker, "keeps 98 %", 5, stand_in.grow, bytes=MIB)
    worker.memory.close()


def loads(folder: Path, name: str, path: Path, count: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    cold: tuple[list[float], list[float]] = ([], [])
    warm: tuple[list[float], list[float]] = ([], [])
    trimmed: list[float] = []
    # A second model keeps the process of the first, so that a load into it is a warm one.
    other = folder / "small.onnx"
    other.write_bytes(onnx_files.scaling(4))
    for _ in range(count):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", _DIRECT, str(path)], check=True)
        cold[0].append(time.perf_counter() - began)
        worker = machine(folder, onnx(name, path))
        worker.models.estimate()
        began = time.perf_counter()
        worker.load(name)
        cold[1].append(time.perf_counter() - began)
        worker.memory.close()
    group: dict[str, Any] = {"engine_group": "g", "loader": "onnx", "params": (("intra_op_num_threads", 1),)}
    specs = (
        ModelSpec(name, path=path, model_root=path.parent, **group),
        ModelSpec("small", path=other, model_root=folder, **group),
    )
    worker = machine(folder, *specs)
    worker.load("small")
    for _ in range(2 * count):
        for direct in (warm[0], trimmed):
            began = time.perf_counter()
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            direct.append(time.perf_counter() - began)
            del session
            if direct is warm[0]:
                _trim_heap()
        began = time.perf_counter()
        worker.load(name)
        warm[1].append(time.perf_counter() - began)
        worker.memory.models.unload(name, UnloadMode.UNLOAD, worker.token())
    worker.memory.close()
    for kind, (direct, here) in (("cold", cold), ("warm", warm), ("warm, trimmed,", (trimmed, warm[1]))):
        ratio = statistics.median(b / a for a, b in zip(direct, here, strict=True))
        print(
            f"{kind} load of {name}: directly {1e3 * statistics.median(direct):.0f} ms, through the worker {1e3 * statistics.median(here):.0f} ms, {ratio:.2f}x"
        )


def calls(folder: Path, count: int) -> None:
    for size in (4, 2**18, 2**22, 2**24):
        path = folder / f"scale-{size}.onnx"
        path.write_bytes(onnx_files.scaling(size))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        worker = machine(folder, onnx("m", path))
        given = np.ones(size, np.float32)
        do(worker, "m", onnx_work.run, inputs={"x": given})
        here, there = [], []
        with Models(worker.models, worker.clock).use("m") as weights:
            call = Call(worker.token(), lambda _done, _total: None)
            for _ in range(max(5, count if size < 2**20 else count // 10)):
                began = time.perf_counter()
                session.run(None, {"x": given})
                here.append(time.perf_counter() - began)
                began = time.perf_counter()
                weights.do(onnx_work.run, {"inputs": {"x": given}}, call)
                there.append(time.perf_counter() - began)
        worker.memory.close()
        del session
        more = statistics.median(there) - statistics.median(here)
        both = 2 * 4 * size / MIB
        per = f", {1e3 * more / both:.3f} ms a MiB" if both >= 1 else ""
        print(
            f"{both:.2f} MiB of tensors in and out: in this process {1e3 * statistics.median(here):.3f} ms, through the engine's "
            f"{1e3 * statistics.median(there):.3f} ms: {1e3 * more:.3f} ms more{per}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of it")
    share = 5 if parser.parse_args().quick else 1
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        ocr = onnx_files.real("ocr")
        large = folder / "large.onnx"
        large.write_bytes(onnx_files.scaling(128 * MIB))  # 512 MiB of floats
        worker = machine(folder, onnx("OCR", ocr))
        cycles(worker, "OCR", 20 // share, onnx_work.pixels, size=640)
        worker.memory.close()
        worker = machine(folder, onnx("512 MiB", large))
        cycles(worker, "512 MiB", 20 // share, onnx_work.sum_of, size=128 * MIB)
        worker.memory.close()
        keeping(folder)
        loads(folder, "OCR", ocr, 10 // share)
        loads(folder, "512 MiB", large, 5 // share)
        calls(folder, 500 // share)


if __name__ == "__main__":
    main()
