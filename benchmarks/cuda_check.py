"""Whether the CUDA backend tells the truth on a real GPU, in under ten minutes: a line a check, PASS, FAIL or INFO.

``python -m benchmarks.cuda_check [CHECK…]``, in a clone of the project, with what it requires installed. Needs torch's CUDA
build, ``nvidia-smi`` and, for ``conformance``, pytest. Each check has a process of its own, says its goal with its figures, and the witness is the driver's
own figure. Exits with 1 where one fails. ROCm has no ``nvidia-smi``: there the checks that need it say so.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time

from benchmarks import cuda_checks, cuda_worker_checks
from benchmarks.cuda_checks import say
from protocol.vocabulary import DeviceState
from worker.backends.base import DeviceBackend
from worker.backends.cuda import CudaBackend

CHECKS = {**cuda_checks.CHECKS, **cuda_worker_checks.CHECKS}
LIMIT_S, CHECK_LIMIT_S = 600.0, 120.0
"""So long may all checks take, and one."""
ALLOCATORS = {
    "default": {},
    "expandable segments": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
    "cudaMallocAsync": {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"},
    "split and collected": {
        "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64,garbage_collection_threshold:0.6"
    },
    "no caching": {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
}


def is_there(backend: DeviceBackend) -> bool:
    """Tell whether there is a device to check; say why not."""
    infos = backend.probe()
    if infos and infos[0].state is DeviceState.AVAILABLE:
        print(infos[0].name, *backend.notes(), sep="\n- ", flush=True)
        return True
    print("no CUDA device:", infos[0].state_reason if infos else "no driver")
    return False


def main() -> int:
    """Run the checks that were named, or all. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("check", nargs="*", choices=[[], *CHECKS], help="all, if none is named")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.check or list(CHECKS)
    if arguments.here:
        for name in names:
            CHECKS[name]()
        return 0
    if not is_there(CudaBackend()):
        return 0
    if shutil.which("nvidia-smi") is None:
        print("nvidia-smi is not on the path: it is the witness of these checks")
        return 1
    return run_all(names)


def run_all(names: list[str]) -> int:
    """Run checks, each in a process of its own, and say what they took. Returns the exit code."""
    begun, failed = time.monotonic(), 0
    for name in names:
        for which, environment in ALLOCATORS.items() if name == "returned" else [("default", {})]:
            started = time.monotonic()
            passed = run_one(
                name, which, environment, max(0.0, min(CHECK_LIMIT_S, begun + LIMIT_S - started))
            )
            failed += not passed
            print(f"     {name} [{which}] took {time.monotonic() - started:.0f} s", flush=True)
    took = time.monotonic() - begun
    say(
        "all of it",
        not failed and took < LIMIT_S,
        f"none fails, took_s < {LIMIT_S:g}",
        failed=failed,
        took_s=round(took),
    )
    return int(failed > 0 or took >= LIMIT_S)


def run_one(name: str, which: str, environment: dict[str, str], limit_s: float) -> bool:
    """Run a check under one allocator. Returns whether it passed."""
    command = [sys.executable, "-m", "benchmarks.cuda_check", "--here", name]
    variables = {**os.environ, **environment, "CHECKED_ALLOCATOR": which}
    try:
        ended = subprocess.run(
            command, env=variables, capture_output=True, text=True, check=False, timeout=limit_s
        )
        text, code, said = ended.stdout, ended.returncode, ended.stderr
    except subprocess.TimeoutExpired as error:
        text, code, said = os.fsdecode(error.stdout or b""), 1, f"it was not done after {limit_s:.0f} s"
    print(text, end="", flush=True)
    if code:
        print(f"FAIL {name} [{which}]: {said.strip().splitlines()[-1:]}", flush=True)
    return not code and "\nFAIL" not in f"\n{text}"


if __name__ == "__main__":
    sys.exit(main())
