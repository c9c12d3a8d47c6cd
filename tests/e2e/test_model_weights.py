"""Real weights, hundreds of MiB of them: the same to the bit wherever they went, and their memory back."""

import hashlib
from pathlib import Path

import psutil
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
from safetensors.torch import save_file

from tests.e2e.process import MIB, Worker, worker

SHAPES = {
    "f32": (torch.float32, (4096, 4096)),
    "f16": (torch.float16, (12, 1024, 4096)),
    "bf16": (torch.bfloat16, (40, 33, 25_000)),
    "i8": (torch.int8, (50_331_648,)),
    "f64": (torch.float64, (6, 7, 90_001)),
    "scalar": (torch.float32, ()),
    "none": (torch.float32, (0, 3)),
}
"""About 300 MiB."""
PLUGIN = "tests.rigs.digest_plugin"


def random_bits(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    count = torch.Size(shape).numel() * dtype.itemsize
    bits = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator)
    return bits.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


def digest(tensor: torch.Tensor) -> str:
    flat = tensor.contiguous().reshape(-1)
    return hashlib.blake2b(flat.view(torch.uint8).numpy() if flat.numel() else b"").hexdigest()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return a folder with the weights in both formats, and what each tensor is."""
    folder = tmp_path_factory.mktemp("weights")
    state = {name: random_bits(*kind, seed) for seed, (name, kind) in enumerate(SHAPES.items())}
    save_file(state, folder / "big.safetensors")
    torch.save(state, folder / "big.pt")
    (folder / "models.yaml").write_text(
        "models:\n"
        "  - {id: safe, path: big.safetensors, loader: safetensors, device: sim:0, offload: true}\n"
        "  - {id: pt, path: big.pt, loader: torch, device: cpu}\n"
    )
    return folder, {name: digest(tensor) for name, tensor in state.items()}


def options(folder: Path) -> tuple[str, ...]:
    return (
        "--models", str(folder / "models.yaml"), "--simulated-device", "1GiB", "--pool-bytes", "0",
        "--plugin", PLUGIN,
    )  # fmt: skip


def private(started: Worker) -> int:
    return int(psutil.Process(started.pid).memory_full_info().uss)


def test_contents_are_equal_to_the_bit_after_load_offload_restore_and_reload(
    models: tuple[Path, dict[str, str]],
) -> None:
    """Digests that a plugin makes of every tensor are the file's after each way a model can come and go."""
    folder, expected = models
    with worker(*options(folder)) as started:

        def seen() -> dict[str, str]:
            tensors: dict[str, str] = started.call("test.digest", {"model_id": "safe"})["tensors"]
            return tensors

        assert seen() == expected
        started.call("memory.unload_model", {"model_id": "safe", "mode": "offload"})
        assert (
            started.call("memory.get_model_status", {"model_id": "safe"})["models"][0]["device_id"] == "cpu"
        )
        assert seen() == expected
        started.call("memory.unload_model", {"model_id": "safe"})
        assert seen() == expected
        loads = started.call("memory.get_model_status", {"model_id": "safe"})["models"][0]["load_count"]
        assert loads == 3


@pytest.mark.parametrize("model_id", ["safe", "pt"])
def test_private_memory_is_back_to_one_percent(models: tuple[Path, dict[str, str]], model_id: str) -> None:
    """Measured by what the process alone has, after torch and the worker have taken what they keep."""
    folder, expected = models
    with worker(*options(folder)) as started:
        started.call("test.digest", {"model_id": model_id, "device_id": "cpu", "torch": True})
        started.call("memory.unload_model", {"model_id": model_id})
        base = private(started)
        loaded = started.call("memory.load_model", {"model_id": model_id, "device_id": "cpu"})
        size = loaded["measured_bytes"]
        assert size > 256 * MIB and 0 <= size - loaded["estimated_bytes"] < 4096  # whole pages
        assert private(started) - base > 0.99 * size
        if loaded["measured_process_bytes"] is not None:
            assert abs(loaded["measured_process_bytes"] - size) < 0.05 * size
        as_torch = started.call("test.digest", {"model_id": model_id, "torch": True})["tensors"]
        assert as_torch == expected
        gone = started.call("memory.unload_model", {"model_id": model_id})
        assert gone["returned_bytes"] >= 0.99 * size
        assert abs(private(started) - base) <= 0.01 * size


def test_fifty_cycles_of_a_torch_file_leave_nothing(tmp_path: Path) -> None:
    """Loaded, used as tensors and unloaded, over and over: no memory, descriptor or mapping is kept."""
    torch.save({"x": random_bits(torch.float32, (1024, 2048), 1), "y": torch.zeros(7)}, tmp_path / "m.pt")
    (tmp_path / "models.yaml").write_text("models: [{id: m, path: m.pt, loader: torch, device: cpu}]\n")
    with worker(*options(tmp_path)) as started:

        def cycle() -> None:
            started.call("test.digest", {"model_id": "m", "torch": True})
            started.call("memory.unload_model", {"model_id": "m"})

        for _ in range(10):
            cycle()
        base, files = private(started), psutil.Process(started.pid).num_fds()
        for _ in range(50):
            cycle()
        assert private(started) - base < 2 * MIB
        assert psutil.Process(started.pid).num_fds() == files
        assert str(tmp_path) not in Path(f"/proc/{started.pid}/maps").read_text()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise ImportError('libcudart.so.12: cannot open shared object file')", "ImportError: libcudart.so.12"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("", "AttributeError: module 'torch' has no attribute 'frombuffer'"),
    ],
    ids=["a library is missing", "it exits", "only its folder is left"],
)  # fmt: skip
def test_a_torch_that_can_not_be_imported_is_told_before_anything_goes(
    tmp_path: Path, code: str, told: str
) -> None:
    """By what needs it, a cast or a tensor with gaps; what needs it not is loaded."""
    save_file({"w": torch.ones(12_000)}, tmp_path / "m.safetensors")
    torch.save({"w": torch.ones(12_000)}, tmp_path / "m.pt")
    torch.save({"w": torch.ones(36_000)[::3]}, tmp_path / "gaps.pt")
    (tmp_path / "models.yaml").write_text(
        "models: {stays: {path: m.safetensors, placement: copy}, pt: {path: m.pt}, gaps: {path: gaps.pt},"
        " cast: {path: m.safetensors, dtype: fp64}, fewer: {path: m.pt, dtype: fp16}}\n"
    )
    (tmp_path / "broken" / "torch").mkdir(parents=True)
    (tmp_path / "broken" / "torch" / "__init__.py").write_text(code)
    options = ("--models", str(tmp_path / "models.yaml"), "--limit-bytes", "100KiB")
    with worker(*options, environment={"PYTHONPATH": str(tmp_path / "broken")}) as started:
        assert started.call("memory.load_model", {"model_id": "stays"})["estimated_bytes"] == 48_000
        assert started.call("memory.load_model", {"model_id": "pt"})["estimated_bytes"] == 48_000
        for model_id in ("cast", "gaps", "fewer", "cast"):
            error = started.refused("memory.load_model", {"model_id": model_id})
            assert error["code"] == "model_load_failed"
            assert f"it needs torch, which can't be imported: {told}" in error["message"]
        states = {row["model_id"]: row["state"] for row in started.call("memory.get_model_status")["models"]}
        assert states["stays"] == states["pt"] == "loaded"
