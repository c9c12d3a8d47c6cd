"""The checks of ``benchmarks.cuda_check``: each prints its verdicts, with its goal and its figures."""

import gc
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

from protocol.vocabulary import DeviceKind, Initialize, MemoryType
from worker.backends.base import COPY_CHUNK_BYTES
from worker.backends.cuda import CudaBackend
from worker.backends.isolated import IsolatedBackend
from worker.backends.isolation.child_process import Launch
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.errors import OutOfMemoryError, WorkerError
from worker.core.records import AllocationRequest, DeviceInfo

MIB, GIB = 2**20, 2**30
DEVICE = "cuda:0"
TOKEN = CancelToken(SystemClock().now_ns)
MOST_CONTEXT_BYTES = 64 * MIB
"""What a mere question may cost: a context takes 200 to 600 MiB."""
MOST_OFF_BYTES = 2 * MIB
"""How far what is said may be from what the driver shows: a page of its own."""
ROOT = Path(__file__).resolve().parents[1]
CONFORMANCE = ("tests/conformance/test_torch.py::TestCuda",)
"""What is run of the project's own tests."""
HOG = (
    "import torch, sys; x = torch.empty(int(torch.cuda.mem_get_info(0)[0] * 0.8), dtype=torch.uint8, device='cuda');"
    "print('there', flush=True); sys.stdin.readline()"
)


def say(name: str, passed: bool | None, goal: str, **figures: object) -> None:  # noqa: FBT001 - each call reads as a row: name, verdict, goal, figures
    """Print a check: None for figures that can't be had here."""
    mark = "INFO" if passed is None else "PASS" if passed else "FAIL"
    said = ", ".join(f"{key}={value}" for key, value in figures.items())
    print(f"{mark} {name} (goal: {goal}): {said}", flush=True)


# ---- the checks, each in a process of its own ----


def context() -> None:
    """A question takes no context; the first block does."""
    before = driver_used()
    backend = made()
    backend.readings(DEVICE)
    asked = driver_used()
    backend.allocate("first", ask(MIB), TOKEN)
    found, used = backend.readings(DEVICE), driver_used()
    say(
        "a question costs no context", asked - before < MOST_CONTEXT_BYTES, f"asked_mib < {MOST_CONTEXT_BYTES // MIB}",
        asked_mib=(asked - before) // MIB, first_block_mib=(used - before) // MIB, process_used_bytes=found.process_used_bytes,
        source=found.process_used_source,
    )  # fmt: skip
    rows = backend.processes(DEVICE, (os.getpid(),))
    listed = None if rows is None else os.getpid() in rows
    say("this process is listed", listed, f"{os.getpid()} in processes", processes=rows)


def figures() -> None:
    """NVML's total is what is used, free and reserved; the backend tells the same."""
    backend = made()
    backend.allocate("a", ask(GIB), TOKEN)
    found = backend.readings(DEVICE)
    assert found.total_bytes is not None
    assert found.used_bytes is not None
    smi = {name: smi_value(f"memory.{name}") for name in ("total", "used", "free", "reserved")}
    say(
        "total = used + free + reserved",
        abs(smi["total"] - smi["used"] - smi["free"] - smi["reserved"]) <= MOST_OFF_BYTES,
        f"within {MOST_OFF_BYTES} bytes", **smi,
    )  # fmt: skip
    off = abs(found.used_bytes - smi["used"])
    say(
        "used is the driver's",
        off <= 16 * MIB,
        f"within {16 * MIB} bytes",
        told=found.used_bytes,
        driver=smi["used"],
    )


def returned() -> None:
    """What frees say went back is what the driver shows, what is called free can be had, and all goes back."""
    import torch  # noqa: PLC0415 - importing torch takes seconds, which who has no CUDA device need not wait for

    def free_now() -> int:
        return int(torch.cuda.mem_get_info(0)[0])

    which = os.environ["CHECKED_ALLOCATOR"]
    backend, chance = made(), random.Random(1)
    backend.allocate("warm", ask(MIB), TOKEN)
    backend.free("warm")
    backend.trim(DEVICE)
    at_first = free_now()
    names = [f"a{n}" for n in range(120)]
    for name in names:
        backend.allocate(name, ask(int(2 ** chance.uniform(9, 28))), TOKEN)
    full = free_now()
    said = sum(backend.free(name) or 0 for name in names[::2]) + (backend.trim(DEVICE) or 0)
    shown = free_now() - full
    within = abs(said - shown) <= MOST_OFF_BYTES
    say(f"returned [{which}]", within, f"within {MOST_OFF_BYTES} bytes", said=said, driver=shown)
    free = backend.readings(DEVICE).free_bytes
    assert free is not None
    try:
        backend.allocate("all", ask(free - 64 * MIB), TOKEN)
        refused = None
    except WorkerError as error:
        refused = error.message
    goal = "one block of it, but for 64 MiB"
    say(f"what is called free can be had [{which}]", refused is None, goal, free_bytes=free, refused=refused)
    for name in backend.live():
        backend.free(name)
    backend.trim(DEVICE)
    kept = at_first - free_now()
    say(f"all goes back [{which}]", kept <= 2 * MOST_OFF_BYTES, f"kept <= {2 * MOST_OFF_BYTES}", kept=kept)


def fraction() -> None:
    """Torch's own limit for the process is in the budget, and what is free below it can be had."""
    import torch  # noqa: PLC0415 - importing torch takes seconds, which who has no CUDA device need not wait for

    backend = made()
    backend.allocate("warm", ask(MIB), TOKEN)
    torch.cuda.set_per_process_memory_fraction(0.05)
    found = backend.readings(DEVICE)
    assert found.free_bytes is not None
    assert found.total_bytes is not None
    try:
        backend.allocate("x", ask(found.free_bytes - 64 * MIB), TOKEN)
        had = True
    except OutOfMemoryError:
        had = False
    small = found.free_bytes <= 0.05 * found.total_bytes
    goal = "free at most a twentieth of the device, and had"
    say(
        "a fraction of the device",
        small and had,
        goal,
        budget=found.budget_bytes,
        free=found.free_bytes,
        had=had,
    )


def contention() -> None:
    """What another process takes is not called free, more is refused in words, and its end is seen."""
    with subprocess.Popen([sys.executable, "-c", HOG], stdin=-1, stdout=-1, text=True) as hog:
        assert hog.stdout is not None
        hog.stdout.readline()
        backend = made()
        beside = backend.readings(DEVICE).free_bytes
        assert beside is not None
        try:
            backend.allocate("over", ask(beside + 2 * GIB), TOKEN)
            over = "granted"
        except OutOfMemoryError:
            over = "out_of_memory"
        listed = backend.processes(DEVICE, (hog.pid,))
        hog.communicate("\n")
    after = backend.readings(DEVICE).free_bytes
    assert after is not None
    seen = listed is not None and hog.pid in listed
    passed = over == "out_of_memory" and after > beside and seen
    goal = "listed, not called free, refused beyond that, free after its end"
    say("another process's use is seen", passed, goal, beside=beside, over=over, after=after, listed=listed)


def pace() -> None:
    """Matmuls keep 90 % of their pace while blocks come and go; a wait for a copy sleeps."""
    import torch  # noqa: PLC0415 - importing torch takes seconds, which who has no CUDA device need not wait for

    backend = made()
    matrix = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    stream, ended, count = torch.cuda.Stream(), threading.Event(), [0]

    def multiply() -> None:
        with torch.cuda.stream(stream):
            while not ended.is_set():
                matrix @ matrix
                count[0] += 1
                if count[0] % 8 == 0:
                    stream.synchronize()

    def rate(work: Callable[[], object], seconds: float = 6.0) -> float:
        ended.clear()
        count[0] = 0
        thread = threading.Thread(target=multiply)
        thread.start()
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            work()
            time.sleep(0.01)
        ended.set()
        thread.join()
        torch.cuda.synchronize()
        return count[0] / seconds

    took: list[float] = []

    def churn() -> None:
        begun = time.perf_counter()
        backend.allocate("c", ask(random.choice([3, 40, 200, 900]) * MIB), TOKEN)
        backend.free("c")
        took.append(1000 * (time.perf_counter() - begun))

    quiet, busy = rate(lambda: None), rate(churn)
    say(
        "matmuls keep their pace under churn", busy >= 0.9 * quiet, "churn >= 0.9 of quiet", quiet=round(quiet), churn=round(busy),
        allocate_free_ms_p50=round(statistics.median(took), 2),
    )  # fmt: skip
    backend.allocate("z", ask(GIB), TOKEN)
    backend.allocate("pinned", ask(GIB, MemoryType.PINNED), TOKEN)
    view = backend.view("pinned", writable=True)
    assert view is not None
    processor, begun = time.process_time(), time.perf_counter()
    for at in range(0, GIB, COPY_CHUNK_BYTES):
        backend.read("z", at, view[at : at + COPY_CHUNK_BYTES], TOKEN)
    wall = time.perf_counter() - begun
    share = (time.process_time() - processor) / wall
    say(
        "a wait for a copy sleeps",
        share < 0.5,
        "processor_share < 0.5",
        processor_share=round(share, 2),
        gib_per_second=round(1 / wall, 1),
    )
    view.release()


def streams() -> None:
    """A block that is freed while a side stream writes it is handed out only after that."""
    import torch  # noqa: PLC0415 - importing torch takes seconds, which who has no CUDA device need not wait for

    backend, wrong = made(), 0
    for _ in range(30):
        backend.allocate("s", ask(256 * MIB), TOKEN)
        backend.free("s")
        backend.allocate("s", ask(256 * MIB), TOKEN)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            torch.cuda._sleep(200_000_000)  # noqa: SLF001 - torch has no public call that keeps a stream busy for a known time
            backend.tensor("s").fill_(7)
        gc.collect()
        backend.free("s")
        backend.allocate("n", ask(256 * MIB, initialize=Initialize.ZERO), TOKEN)
        side.synchronize()
        wrong += int(backend.tensor("n").max().item() != 0)
        backend.free("n")
    say(
        "a freed block that a side stream writes is not handed out",
        wrong == 0,
        "wrong 0",
        wrong=f"{wrong} of 30",
    )


def death() -> None:
    """After an illegal access the context is dead: the next call says that the device is lost."""
    import torch  # noqa: PLC0415 - importing torch takes seconds, which who has no CUDA device need not wait for

    backend = made()
    backend.allocate("a", ask(MIB), TOKEN)
    with suppress(RuntimeError):
        torch.zeros(4, device=DEVICE)[torch.tensor([10**9], device=DEVICE)]
        torch.cuda.synchronize()
    try:
        backend.allocate("b", ask(MIB, initialize=Initialize.ZERO), TOKEN)
        said = "granted"
    except WorkerError as error:
        said = type(error).__name__
    say("a dead context is told of", said == "DeviceLostError", "said DeviceLostError", said=said)


def kills() -> None:
    """A device's process that is killed leaves nothing with the driver, and another has the device at once."""
    before = driver_used()
    apart = made_apart()
    recovered: list[float] = []
    for number in range(6):
        until(partial(apart.allocate, f"a{number}", ask(GIB), TOKEN))
        pid, begun = apart.pid, time.monotonic()
        assert pid is not None
        os.kill(pid, 9)
        until(partial(apart.allocate, f"b{number}", ask(MIB), TOKEN))
        recovered.append(round(time.monotonic() - begun, 1))
    apart.close()
    time.sleep(2)
    left = driver_used() - before
    goal = f"left_mib <= {MOST_CONTEXT_BYTES // MIB}"
    say("kills leave nothing", left <= MOST_CONTEXT_BYTES, goal, left_mib=left // MIB, recovered_s=recovered)


def conformance() -> None:
    """All that a backend owes the worker, by the tests that hold each of them to it, on the real device."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "default",  # what a machine's torch and driver warn of says nothing of the backend
            f"--junit-xml={report}",
            *CONFORMANCE,
        ]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        cases = list(ET.parse(report).iter("testcase")) if report.exists() else []
    wrong = {
        kind: [each.get("name") for each in cases if each.find(kind) is not None]
        for kind in ("failure", "error", "skipped")
    }
    passed = len(cases) - sum(map(len, wrong.values()))
    green = bool(cases) and passed == len(cases) and ended.returncode == 0
    last = {} if cases else {"said": (ended.stderr or ended.stdout).strip().splitlines()[-1:]}
    say("conformance", green, "all pass, none is skipped", tests=len(cases), green=passed, **wrong, **last)


CHECKS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (context, figures, returned, fraction, contention, pace, streams, death, kills, conformance)
}


# ---- what they are made with ----


def made() -> CudaBackend:
    """Return a backend that found its devices."""
    backend = CudaBackend()
    backend.probe()
    return backend


def made_apart() -> IsolatedBackend:
    """Return one in a process of its own, which found its devices."""
    launch = Launch(sys.executable, "worker.backends.cuda:CudaBackend", {})
    apart = IsolatedBackend(launch, (DeviceInfo(DEVICE, DeviceKind.CUDA, "CUDA device"),), SystemClock())
    apart.begin(lambda _: None)
    apart.probe()
    return apart


def ask(
    size: int, memory_type: MemoryType = MemoryType.DEVICE, *, initialize: Initialize = Initialize.NONE
) -> AllocationRequest:
    """Make a request."""
    return AllocationRequest(DEVICE, size, memory_type, initialize)


def until(work: Callable[[], object], refusal: type[Exception] = WorkerError, seconds: float = 60.0) -> None:
    """Try until it works: a device is looked for, or its process that was killed is started again."""
    end = time.monotonic() + seconds
    while True:
        try:
            work()
        except refusal:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


def smi_value(name: str) -> int:
    """Ask nvidia-smi for a figure of the first GPU, in bytes."""
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={name}", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * MIB


def driver_used() -> int:
    """Return what all processes use of the first GPU, as the driver's tool says."""
    return smi_value("memory.used")
