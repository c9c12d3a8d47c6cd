"""The readers of what others wrote: what each is handed, and what it may answer — a value, or its own error.

``python -m benchmarks.fuzz`` looks for bytes on which one does anything else; ``tests/fuzz`` replays what was found.
"""

import io
import json
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from protocol.actions import ACTIONS, OLDER_NAMES
from protocol.record import Record
from protocol.vocabulary import DEFAULT_MAX_FRAME_BYTES, INT64_MAX
from worker.core.errors import InvalidJsonError, InvalidRequestError, ModelLoadFailedError, UnknownActionError
from worker.core.models import ModelSpec
from worker.instructor.refusals import check_size, invalid, unknown_action
from worker.loaders.models_file import ModelConfigError, declared_models
from worker.loaders.pickle_reader import PickleError, PickleReader
from worker.loaders.registry import loader_of
from worker.loaders.torch_values import called, found_in, storage_of
from worker.stream.frames import error_frame, find_request_id, read_request

ROOT = Path(__file__).resolve().parents[1]
MOST_MESSAGE_CHARACTERS = 64 * 1024
"""No complaint is longer: a host has to hold it, and a person to read it."""


class Parser(Record):
    """A reader, and what it is tried with."""

    read: Callable[[bytes, Path], object]
    """Given the bytes, and a folder that files may be written to. Raises the refusals only."""
    refusals: tuple[type[Exception], ...]
    seeds: Callable[[], Iterator[bytes]]


def outcome(parser: Parser, text: bytes, folder: Path) -> str:
    """Return ``value``, or the message of the parser's own error. Raises whatever else it did."""
    try:
        parser.read(text, folder)
    except parser.refusals as error:
        message = str(error)
        if len(message) > MOST_MESSAGE_CHARACTERS:
            raise AssertionError(f"a complaint of {len(message)} characters") from None
        return message
    return "value"


# ---- the line ----


def _line(text: bytes, _: Path) -> None:
    """Read a request as far as its params, as the stream and the instructor do."""
    try:
        request = read_request(text)
        if request is None:
            return
        row = ACTIONS.get(OLDER_NAMES.get(request.action, request.action))
        if row is None:
            raise unknown_action(request.action, ())
        check_size(request.data)
        try:
            row.params.model_validate(request.data)
        except ValidationError as error:
            raise invalid(error, row.params) from None
    except (InvalidJsonError, InvalidRequestError, UnknownActionError) as error:
        orjson.loads(error_frame(find_request_id(text), error, DEFAULT_MAX_FRAME_BYTES))
        raise


def _lines() -> Iterator[bytes]:
    for action, row in ACTIONS.items():
        for path in (ROOT / "schemas" / "samples").glob(f"{row.params.__name__}-*.json"):
            data = json.loads(path.read_text(encoding="utf-8"))
            yield json.dumps({"request_id": "1", "action": action, "data": data}).encode()
    for path in (ROOT / "schemas" / "samples").glob("Request-*.json"):
        yield path.read_bytes()


# ---- models.yaml ----


def _yaml(text: bytes, folder: Path) -> None:
    path = folder / "models.yaml"
    path.write_bytes(text)
    found = declared_models(path, folder)
    for spec in found.specs:
        if not spec.model_id or (spec.declared_bytes or 0) > INT64_MAX:
            raise AssertionError(spec)
    orjson.dumps([found.problems, [spec.model_id for spec in found.specs]])  # a reply can hold it


def _yamls() -> Iterator[bytes]:
    for path in (ROOT / "tests" / "contract" / "golden" / "models").glob("*.yaml"):
        yield path.read_bytes()
    yield b'models: [{id: "\\ud800", external: true, declared_bytes: 1}]'
    yield b"""models:
  a: {path: [a.pt, "~/b-$HOME.pt"], loader: torch, dtype: fp16, declared_bytes: 7GiB, keep_alive_seconds: 1h30m}
  b: {loader: module, factory: "m:make", params: {x: 1, y: [2.5, null, true]}, aliases: [c, d], preload: true}
  e: &e {external: true, declared_bytes: 10}
  f: {<<: *e, fallback: a, priority: 7, placement: map, pinned: true, offload: true}
roles:
  chat: a
  embed: {model: b, fallbacks: [a]}
"""
    for tag, value in (("int", "0x1f"), ("float", "1:30.5"), ("timestamp", "2001-12-14t21:59:43.10-05:00"), ("bool", "on"),
                       ("binary", "aGk="), ("set", "{a, b}"), ("omap", "[a: 1]"), ("pairs", "[a: 1]"), ("null", "~")):  # fmt: skip
        yield f"models: [{{id: !!{tag} {value}, path: a}}]".encode()


# ---- a safetensors header ----


def _header(text: bytes, folder: Path) -> None:
    """Open a file with this header. Its first two bytes say how much data lies behind it."""
    data_bytes, header = int.from_bytes(text[:2], "little"), text[2:]
    path = folder / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(data_bytes))
    _estimate(ModelSpec("m", "safetensors", path, folder))


def _headers() -> Iterator[bytes]:
    for dtype, shape, size in (
        ("F32", [2, 3], 24),
        ("BF16", [4], 8),
        ("F4", [3, 2], 3),
        ("U8", [0, 2**62], 0),
        ("I64", [], 8),
    ):
        entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
        after = {"dtype": "U8", "shape": [2], "data_offsets": [size, size + 2]}
        header = {"__metadata__": {"format": "pt"}, "w": entry, "v": after}
        yield (size + 2).to_bytes(2, "little") + json.dumps(header).encode()
    yield b"\0\0{}"


# ---- the index of a model in several files ----


def _index(text: bytes, folder: Path) -> None:
    """Open the folder that has this index, and the two files that a good one names."""
    place = folder / "sharded"
    place.mkdir(exist_ok=True)
    for name, tensor in (("a", "w"), ("b", "v")):
        header = json.dumps({tensor: {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}).encode()
        (place / f"{name}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    (place / "model.safetensors.index.json").write_bytes(text)
    _estimate(ModelSpec("m", "safetensors", place, folder))


def _indexes() -> Iterator[bytes]:
    whole = {"w": "a.safetensors", "v": "b.safetensors"}
    yield json.dumps({"metadata": {"total_size": 4}, "weight_map": whole}).encode()
    yield json.dumps({"weight_map": {"w": "a.safetensors"}}).encode()


# ---- an ONNX file ----


def _onnx(text: bytes, folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(text)
    _estimate(ModelSpec("m", "onnx", path, folder))


def _onnxes() -> Iterator[bytes]:
    """Yield graphs, written by hand: a library for it need not be there."""

    def field(number: int, value: bytes | int) -> bytes:
        if isinstance(value, int):
            return bytes([number << 3, value])
        return bytes([number << 3 | 2, len(value)]) + value

    tensor = field(1, 2) + field(1, 3) + field(2, 1) + field(8, b"w") + field(9, bytes(24))
    place = field(1, b"location") + field(2, b"w.bin")
    outside = field(1, 4) + field(2, 1) + field(8, b"v") + field(14, 1) + field(13, place)
    for tensors in ((tensor,), (tensor, outside), ()):
        graph = field(2, b"g") + b"".join(field(5, each) for each in tensors)
        yield field(1, 8) + field(7, graph)


# ---- torch's files ----


def _archive(text: bytes, folder: Path) -> None:
    """Open it as the loader does, in either of torch's formats."""
    path = folder / "model.pt"
    path.write_bytes(text)
    _estimate(ModelSpec("m", "torch", path, folder))


def _estimate(spec: ModelSpec) -> None:
    total = loader_of(spec).estimate(spec)
    if total is None or not 0 <= total <= INT64_MAX:
        raise AssertionError(f"{total} bytes")


def _states() -> Iterator[Any]:
    import torch  # noqa: PLC0415 - only the seeds need it

    weight = torch.arange(6.0).reshape(2, 3)
    yield {"w": weight}
    yield {
        "w": weight,
        "same": weight,
        "t": weight.T,
        "row": weight[1],
        "half": weight.half(),
        "step": 3,
        "name": "x",
    }
    yield {"model": {"b": torch.nn.Parameter(weight.bfloat16())}, "args": (1.5, None, True, b"x", {1, 2})}
    yield torch.nn.Linear(2, 2).state_dict()
    yield [torch.ones(1, dtype=torch.bool).expand(1000), complex(1, 2), bytearray(3)]


def _archives() -> Iterator[bytes]:
    import torch  # noqa: PLC0415 - only the seeds need it

    for state in _states():
        for zipped in (True, False):
            with tempfile.TemporaryFile() as file:
                torch.save(state, file, _use_new_zipfile_serialization=zipped)
                file.seek(0)
                yield file.read()


# ---- a pickle ----


def _pickle(text: bytes, _: Path) -> None:
    found_in(PickleReader(text, storage_of, called).read())


def _pickles() -> Iterator[bytes]:
    for protocol in range(2, 6):
        yield pickle.dumps({"a": [1, 2**70, -1.5, None, True], "b": (b"x", "y", {3}, bytearray(2))}, protocol)
    for each in _archives():
        if each.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(each)) as archive:
                yield from (archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))


# ---- a GGUF header ----


def _gguf(text: bytes, folder: Path) -> None:
    """Work out what a model of llama.cpp's takes, as the loader does before anything is started for it."""
    path = folder / "model.gguf"
    path.write_bytes(text)
    _estimate(ModelSpec("m", "gguf", path, folder))


def _ggufs() -> Iterator[bytes]:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    def key(name: str, kind: int, value: bytes) -> bytes:
        return text(name) + struct.pack("<I", kind) + value

    architecture = key("general.architecture", 8, text("x"))
    sizes = {"block_count": 2, "embedding_length": 64, "attention.head_count": 4, "context_length": 128}
    keys = [key(f"x.{name}", 4, struct.pack("<I", value)) for name, value in sizes.items()]
    heads = key("x.attention.head_count_kv", 9, struct.pack("<IQ2I", 4, 2, 1, 2))
    tokens = key("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b"))
    scores = key("tokenizer.ggml.scores", 9, struct.pack("<IQ2f", 6, 2, 0.5, 1.5))
    tensor = text("t") + struct.pack("<I2QIQ", 2, 32, 2, 2, 0)
    for version, tensors, written in ((3, 0, [architecture]), (2, 0, [architecture, *keys]),
                                      (3, 1, [architecture, *keys, heads, tokens, scores])):  # fmt: skip
        head = (
            b"GGUF"
            + struct.pack("<IQQ", version, tensors, len(written))
            + b"".join(written)
            + tensor * tensors
        )
        yield head + bytes(-len(head) % 32 + 36 * tensors)


PARSERS = {
    "line": Parser(_line, (InvalidJsonError, InvalidRequestError, UnknownActionError), _lines),
    "yaml": Parser(_yaml, (ModelConfigError,), _yamls),
    "safetensors": Parser(_header, (ModelLoadFailedError,), _headers),
    "index": Parser(_index, (ModelLoadFailedError,), _indexes),
    "onnx": Parser(_onnx, (ModelLoadFailedError,), _onnxes),
    "torch": Parser(_archive, (ModelLoadFailedError,), _archives),
    "pickle": Parser(_pickle, (PickleError,), _pickles),
    "gguf": Parser(_gguf, (ModelLoadFailedError,), _ggufs),
}
