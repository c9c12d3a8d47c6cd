"""Real safetensors files with contents that no two models share, and the specs that name them."""

import json
import random
import struct
from pathlib import Path
from typing import Any

from worker.core.models import ModelSpec
from worker.loaders.dtypes import ITEM_BYTES


def contents(size: int, seed: int) -> bytes:
    """Return bytes of which no piece is like another model's."""
    block = random.Random(seed).randbytes(min(size, 65_521))
    return (block * (size // len(block) + 1))[:size] if size else b""


def write_model(path: Path, *sizes: int, seed: int = 0, dtype: str = "U8") -> dict[str, bytes]:
    """Write a file with a tensor of each size in bytes, whole elements. Returns what is in each."""
    entries: dict[str, Any] = {}
    tensors: dict[str, bytes] = {}
    end = 0
    for index, size in enumerate(sizes):
        name = f"layer.{index}"
        entries[name] = {
            "dtype": dtype,
            "shape": [size // ITEM_BYTES[dtype]],
            "data_offsets": [end, end + size],
        }
        tensors[name] = contents(size, seed * 1000 + index)
        end += size
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"".join(tensors.values()))
    return tensors


def spec(path: Path, model_id: str | None = None, **more: Any) -> ModelSpec:
    """Declare a file as a model."""
    declared = {"loader": "safetensors", "path": path, "model_root": path.parent} | more
    return ModelSpec(model_id or path.stem, **declared)
