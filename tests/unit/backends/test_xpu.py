"""Intel's GPUs: torch's allocator under another name, and what is said where they can't be used."""

import shutil
import subprocess
import sys

import pytest
import torch

from protocol.vocabulary import DeviceKind, DeviceState
from tests.rigs.torch_on_cpu import TorchOnCpu
from tests.unit.backends.test_cuda_probe import run
from worker.backends.cuda_probe import Found
from worker.backends.torch_device import TorchDevice
from worker.backends.xpu import xpu_backend
from worker.core.cancellation import CancelToken
from worker.core.errors import UnsupportedError
from worker.core.records import AllocationRequest, DeviceInfo

MIB = 2**20
TOKEN = CancelToken(lambda: 0)

PROBE = """
import json, sys
from worker.backends.xpu import xpu_backend
backend = xpu_backend()
backend.probe()
print(json.dumps([[info.device_id, info.state, info.state_reason] for info in backend.devices]))
"""


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Build a loader that finds what the environment says; returns the environment that finds it."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("the loader's stand-in is built with a C compiler, for Linux")
    folder = tmp_path_factory.mktemp("loader")
    code = '#include <stdlib.h>\nint zeInit(unsigned flags) { return flags == 1 ? atoi(getenv("RIG_ZE")) : 1; }\n'
    (folder / "loader.c").write_text(code)
    library = folder / "libze_loader.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "loader.c"], check=True)
    return {"LD_LIBRARY_PATH": str(folder)}


def test_a_torch_without_it(loader: dict[str, str]) -> None:
    """A GPU that torch has no code for is listed, with the build to install."""
    if torch.version.xpu is not None:
        pytest.skip("torch is an XPU build here")
    ((device_id, state, reason),) = run(PROBE, **loader, RIG_ZE="0")
    assert (device_id, state) == ("xpu:0", "unavailable")
    assert "is built without XPU: install that build instead" in reason
    ((_, _, reason),) = run("import sys; sys.modules['torch'] = None" + PROBE, **loader, RIG_ZE="0")
    assert reason.startswith(f"torch is not installed for {sys.executable}: install its XPU build")


def test_a_loader_without_a_gpu(loader: dict[str, str]) -> None:
    """Where no driver has one, the device is unavailable and says why."""
    ((_, state, reason),) = run(PROBE, **loader, RIG_ZE=str(0x78000001))
    assert (state, reason) == ("unavailable", "Level Zero's loader is installed, and finds no GPU")


def test_blocks_and_copies() -> None:
    """They are as on CUDA, by the device's own name; what is pinned is unsupported, and says for which device."""
    device = TorchOnCpu(64 * MIB, "xpu:0")
    info = DeviceInfo("xpu:0", DeviceKind.XPU, "Torch on the CPU")
    backend = xpu_backend(lambda: Found((info,), {"xpu:0": device}, (), lambda: None))
    assert backend.devices[0].state is DeviceState.PROBING
    assert backend.probe() == (info,)
    backend.allocate("a", AllocationRequest("xpu:0", MIB), TOKEN)
    backend.write("a", 3, memoryview(b"abc"), TOKEN)
    into = bytearray(5)
    backend.read("a", 2, memoryview(into), TOKEN)
    assert into == b"\0abc\0"
    assert backend.readings("xpu:0").resident_bytes == MIB
    backend.close()


def test_nothing_is_page_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch has no call for it there: copies go through ordinary memory."""
    device = TorchDevice("xpu:0", "cpu", 0)
    monkeypatch.setattr(device, "_module", object())
    with pytest.raises(UnsupportedError, match="xpu:0"):
        device.page_lock(0, 4096)
