"""Tensors by name as one run of bytes, in the format of safetensors: what a store of tensors keeps. Standard library only.

Eight bytes with the length of a header, the header in JSON, and the tensors' bytes one after the other.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Buffer = bytes | bytearray | memoryview

HEADER_BYTES = 100 * 2**20
"""The longest header that the format allows."""
_ALIGNMENT = 8
_LENGTH_BYTES = 8
_METADATA = "__metadata__"


class Part(NamedTuple):
    """A tensor."""

    dtype: str
    """As the format names it: ``F16``, ``BF16``, ``U8``."""
    shape: Sequence[int]
    content: Buffer


def packed(parts: Mapping[str, Part], metadata: Mapping[str, str]) -> bytes:
    """Return tensors, and what is said of them, as bytes."""
    header: dict[str, object] = {_METADATA: dict(metadata)}
    at = 0
    for name, (dtype, shape, content) in parts.items():
        size = memoryview(content).nbytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return b"".join(
        (len(text).to_bytes(_LENGTH_BYTES, "little"), text, *(each.content for each in parts.values()))
    )


def unpacked(data: Buffer) -> tuple[dict[str, Part], dict[str, str]]:
    """Return the tensors in bytes, which are looked at where they are, and what is said of them. ValueError for others."""
    view = memoryview(data).cast("B")
    length = int.from_bytes(view[:_LENGTH_BYTES], "little")
    if len(view) < _LENGTH_BYTES or length > min(HEADER_BYTES, len(view) - _LENGTH_BYTES):
        raise ValueError("no header of safetensors: it would be longer than all")
    try:
        header = json.loads(bytes(view[_LENGTH_BYTES : _LENGTH_BYTES + length]))
        metadata = header.pop(_METADATA, {})
        content = view[_LENGTH_BYTES + length :]
        parts, end = {}, 0
        for name, said in sorted(header.items(), key=lambda each: each[1]["data_offsets"]):
            start, stop = said["data_offsets"]
            if start != end or stop < start:
                raise ValueError(f"tensor {name!r} does not begin where the one before it ends")
            parts[name] = Part(str(said["dtype"]), tuple(map(int, said["shape"])), content[start:stop])
            end = stop
    except (
        AttributeError,
        KeyError,
        TypeError,
        json.JSONDecodeError,
        UnicodeDecodeError,
        RecursionError,
    ) as error:
        raise ValueError(f"no header of safetensors: {error}") from error
    if end != len(content) or not isinstance(metadata, dict):
        raise ValueError(f"the tensors have {end} bytes, and there are {len(content)}")
    return parts, metadata
