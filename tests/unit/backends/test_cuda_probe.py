"""Finding CUDA devices, and NVML's figures: with the driver's libraries as C code that is really loaded."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from worker.telemetry.cuda_driver import Driver, DriverDevice, Vendor, find_driver

ROOT = Path(__file__).resolve().parents[3]
UUID = "00010203-0405-0607-0809-0a0b0c0d0e0f"
NOT_AVAILABLE = "-1"
"""NVML_VALUE_NOT_AVAILABLE, as strtol reads it."""

PROBE = """
import json, sys
from worker.backends.cuda import CudaBackend
backend = CudaBackend()
infos = backend.probe()
assert infos == backend.probe()
backend.close()
found = [[info.device_id, info.name, info.state, info.state_reason] for info in infos]
print(json.dumps({"infos": found, "imported": [name for name in ("torch",) if sys.modules.get(name)]}))
"""

NVML = """
import json, os, sys
from worker.telemetry.nvml import Nvml
session = Nvml.open()
if isinstance(session, str):
    print(json.dumps(session))
else:
    memory = session.memory(sys.argv[1])
    process = session.process_bytes(sys.argv[1], int(sys.argv[2]))
    processes = session.processes(sys.argv[1])
    session.close()
    figures = None if memory is None else list(vars(memory).values())
    print(json.dumps([figures, process, processes and sorted(processes.items())]))
"""


def run(code: str, *arguments: str, **environment: str) -> Any:
    """Run code in a fresh process; returns what it printed last."""
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Build the driver's libraries; returns the environment that finds them."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("the driver's stand-in is built with a C compiler, for Linux")
    folder = tmp_path_factory.mktemp("driver")
    source = ROOT / "tests/rigs/nvidia/driver.c"
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        subprocess.run(
            [compiler, "-Wall", "-Werror", "-shared", "-fPIC", "-o", folder / name, source], check=True
        )
    return {"LD_LIBRARY_PATH": str(folder)}


# ---- the driver ----


def test_no_driver() -> None:
    """Without a driver there are no devices, and neither torch nor NVML was imported to find that out."""
    if find_driver() is not None:
        pytest.skip("this machine has a GPU driver")
    assert run(PROBE) == {"infos": [], "imported": []}


def test_torch_without_cuda(driver: dict[str, str]) -> None:
    """Each GPU is listed by its name, unavailable because of torch's build, which was not imported to see it."""
    import torch

    if torch.version.cuda is not None:
        pytest.skip("torch is a CUDA build here")
    found = run(PROBE, **driver)
    assert [row[:3] for row in found["infos"]] == [
        ["cuda:0", "Rig GPU A", "unavailable"],
        ["cuda:1", "Rig GPU B", "unavailable"],
    ]
    cause = found["infos"][0][3]
    assert cause.startswith(f"torch {torch.__version__} in ")
    assert "is built without CUDA: install that build" in cause
    assert found["imported"] == []


def test_no_torch(driver: dict[str, str]) -> None:
    """A Python without torch is told of by its path."""
    found = run("import sys; sys.modules['torch'] = None" + PROBE, **driver)
    assert found["infos"][0][3].startswith(
        f"torch is not installed for {sys.executable}: install its CUDA build"
    )


def test_a_driver_without_a_gpu(driver: dict[str, str]) -> None:
    """A driver that has nothing to drive, or only stands in for one at link time, is no driver."""
    for code in ("100", "34"):
        assert run(PROBE, **driver, RIG_CUINIT=code)["infos"] == []
    assert run(PROBE, **driver, RIG_GPUS="0")["infos"] == []


def test_a_driver_that_does_not_start(driver: dict[str, str]) -> None:
    """Its own words are the cause; a code that it has no words for is told as it is."""
    (info,) = run(PROBE, **driver, RIG_CUINIT="803")["infos"]
    assert info[:3] == ["cuda:0", "NVIDIA GPU", "unavailable"]
    assert info[3] == (
        "the NVIDIA driver does not start: system has unsupported display driver / cuda driver combination"
        " (CUresult 803)"
    )
    (info,) = run(PROBE, **driver, RIG_CUINIT="999")["infos"]
    assert info[3] == "the NVIDIA driver does not start: CUresult 999"


def test_amd_driver(tmp_path: Path) -> None:
    """AMD's driver is seen by its device file, on Linux."""
    if sys.platform != "linux" or find_driver() is not None:
        pytest.skip("AMD's driver is looked for on Linux, after NVIDIA's")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").touch()
    assert find_driver(tmp_path) == Driver(Vendor.AMD, (DriverDevice("AMD GPU", None),))


# ---- NVML ----


def test_nvml_figures(driver: dict[str, str]) -> None:
    """The device without what the driver keeps for itself, the process by its pid, and who else is there."""
    found = [[7500, 2500, 5000], 1234, [[1, 77], [42, 1234]]]
    assert run(NVML, UUID, "42", **driver, RIG_NVML_COMPUTE_PID="42") == found
    assert run(NVML, UUID, "42", **driver, RIG_NVML_GRAPHICS_PID="42") == found
    both = {"RIG_NVML_COMPUTE_PID": "42", "RIG_NVML_GRAPHICS_PID": "43"}
    assert run(NVML, UUID, "42", **driver, **both)[2] == [[1, 77], [42, 1234], [43, 1234]]


def test_nvml_of_an_old_driver(driver: dict[str, str]) -> None:
    """Where the newer question is not known, the older one answers."""
    assert run(NVML, UUID, "42", **driver, RIG_NVML_MEMORY="1") == [[8000, 3000, 5000], None, {}]


def test_what_nvml_does_not_know_is_none(driver: dict[str, str]) -> None:
    """WDDM's "not available", another container's pid, a chip without memory of its own, another device."""
    hidden = {"RIG_NVML_COMPUTE_PID": "42", "RIG_NVML_USED": NOT_AVAILABLE}
    assert run(NVML, UUID, "42", **driver, **hidden)[1:] == [None, [[1, 77], [42, None]]]
    assert run(NVML, UUID, "43", **driver, RIG_NVML_COMPUTE_PID="42")[1] is None
    assert run(NVML, UUID, "42", **driver, RIG_NVML_MEMORY="0")[0] is None
    other = UUID.replace("0", "f")
    assert run(NVML, other, "42", **driver, RIG_NVML_COMPUTE_PID="42") == [None, None, None]


def test_nvml_of_a_part_of_a_gpu(driver: dict[str, str]) -> None:
    """A partition has a name of another kind, and figures of its own."""
    assert run(NVML, UUID, "42", **driver, RIG_NVML_UUID=f"MIG-{UUID}")[0] == [7500, 2500, 5000]


def test_nvml_that_is_not_there(driver: dict[str, str]) -> None:
    """Why there is no session is said in words: no library, no driver behind it."""
    assert run(NVML, UUID, "42", **driver, RIG_NVML_INIT="9") == "NVML does not answer: Driver Not Loaded"


@pytest.mark.skipif(find_driver() is not None, reason="this machine has NVIDIA's driver")
def test_nvml_without_a_driver() -> None:
    """It is not asked, and that is said in words."""
    assert run(NVML, UUID, "42") == "NVML is not asked: the driver's library was not found"


def test_the_adapter_behind_a_device(driver: dict[str, str]) -> None:
    """Its LUID, by which Windows' own counters know it, where the driver has one."""
    code = (
        "import json; from worker.telemetry.cuda_driver import find_driver;"
        "print(json.dumps([each.luid for each in find_driver().devices]))"
    )
    assert run(code, **driver, RIG_LUID="1") == [[0xD4C2, -1], [0xD4C3, -1]]
    assert run(code, **driver) == [None, None]
