"""A CUDA device that is lost, or cannot be used: what its callers hear."""

import pytest

from protocol.vocabulary import DeviceState, MemoryType
from tests.rigs.torch_on_cpu import TorchOnCpu, backend_on_cpu
from tests.unit.backends.cuda_on_cpu import MIB, TOKEN, ask, backend, device, time
from worker.backends.cuda import CudaBackend
from worker.backends.cuda_probe import Found
from worker.core.errors import DeviceLostError, DeviceUnavailableError
from worker.core.records import DeviceInfo

__all__ = ["backend", "device", "time"]

LOST = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ..."


def test_a_lost_device(backend: CudaBackend, device: TorchOnCpu) -> None:
    """Every block is gone with it, every call says so, and what it locked of the host is unlocked."""
    backend.allocate("a", ask(MIB), TOKEN)
    backend.allocate("p", ask(MIB, MemoryType.PINNED), TOKEN)
    backend.write("a", 0, memoryview(b"x"), TOKEN)
    device.failure = RuntimeError(LOST)
    with pytest.raises(DeviceLostError) as lost:
        backend.write("a", 0, memoryview(b"x"), TOKEN)
    assert lost.value.details == {"device_id": "cuda:0"}
    assert "illegal memory access" in lost.value.message
    assert "\n" not in lost.value.message
    assert backend.live() == frozenset()
    for call in (
        lambda: backend.readings("cuda:0"),
        lambda: backend.trim("cuda:0"),
        lambda: backend.allocate("b", ask(1), TOKEN),
        lambda: backend.allocate("b", ask(1, MemoryType.PINNED), TOKEN),
        lambda: backend.read("a", 0, memoryview(bytearray(1)), TOKEN),
    ):
        with pytest.raises(DeviceLostError):
            call()
    assert backend.free("a") == 0
    assert backend.free("p") == 0
    backend.tick()


@pytest.mark.parametrize("step", ["memory", "empty", "settle"])
def test_a_device_that_is_lost_on_the_way(
    backend: CudaBackend, device: TorchOnCpu, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever step of an allocation it goes, that is what the caller hears."""

    def fail(*_: object) -> None:
        raise RuntimeError(LOST)

    monkeypatch.setattr(device, step, fail)
    with pytest.raises(DeviceLostError):
        backend.allocate("a", ask(MIB), TOKEN)
    assert backend.live() == frozenset()


def test_another_error_is_nobodys_loss(backend: CudaBackend, device: TorchOnCpu) -> None:
    """An error that says neither goes on as it is; blocks and device stay."""
    backend.allocate("a", ask(MIB), TOKEN)
    device.failure = RuntimeError("CUDA error: invalid argument")
    with pytest.raises(RuntimeError, match="invalid argument"):
        backend.allocate("b", ask(MIB), TOKEN)
    assert backend.live() == {"a"}
    assert backend.free("a") == MIB


def test_a_device_that_cannot_be_used() -> None:
    """What the probe found unusable is refused with the probe's reason."""
    kind = backend_on_cpu(TorchOnCpu(1), lambda: 0).probe()[0].kind
    info = DeviceInfo("cuda:0", kind, "n", DeviceState.UNAVAILABLE, "torch is not installed")
    backend = CudaBackend(lambda: 0, lambda: Found((info,), {}, (), lambda: None))
    assert backend.probe() == (info,)
    with pytest.raises(DeviceUnavailableError, match="torch is not installed"):
        backend.allocate("a", ask(1), TOKEN)
    backend.close()
