"""The header of a safetensors file: 8 bytes of length, then JSON that says where each tensor lies.

It is the file's word against its size: every figure is checked before a byte is read on its account.
"""

import json
from typing import Any

from protocol.record import Record
from worker.loaders.base import FormatError
from worker.loaders.dtypes import SAFETENSORS, bytes_of

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
_MAX_DIMENSIONS = 64
_INT64_MAX = 2**63 - 1
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}


class StoredTensor(Record):
    """One tensor as the header has it; ``begin`` counts from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class HeaderError(FormatError):
    """The header can't be right; the message says what was found."""


def header_bytes(prefix: bytes, file_bytes: int) -> int:
    """Return the header's length, from the file's first 8 bytes."""
    if len(prefix) < LENGTH_BYTES:
        raise HeaderError(
            f"it has {file_bytes} bytes; a safetensors file begins with {LENGTH_BYTES} of length"
        )
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise HeaderError(
            f"it claims a header of {length} bytes; {MAX_HEADER_BYTES} is the most there can be, so it is damaged, or no"
            " safetensors file"
        )
    if length > file_bytes - LENGTH_BYTES:
        raise HeaderError(f"it is cut short: it claims a header of {length} bytes; the file has {file_bytes}")
    return length


def parse_header(text: bytes, data_bytes: int) -> tuple[StoredTensor, ...]:
    """Read the header of a file with this much data behind it. Returns the tensors in the data's order."""
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise HeaderError("its header nests too deep") from None
    except HeaderError:
        raise
    except ValueError as error:
        raise HeaderError(f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise HeaderError("its header is not a JSON object")
    _check_metadata(header.pop("__metadata__", {}))
    tensors = sorted(
        (_tensor(name, entry) for name, entry in header.items()), key=lambda each: (each.begin, each.end)
    )
    at = 0
    for tensor in tensors:
        if tensor.begin != at:
            what = "overlaps what comes before it" if tensor.begin < at else "leaves a hole before it"
            raise HeaderError(
                f"tensor {tensor.name!r} begins at {tensor.begin} and {what}, which ends at {at}"
            )
        at = tensor.end
    if at != data_bytes:
        what = "is truncated" if data_bytes < at else "has more than its header says"
        raise HeaderError(f"the file {what}: its tensors take {at} bytes, it has {data_bytes}")
    return tuple(tensors)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise HeaderError(f"its header has {name!r} twice")
        found[name] = value
    return found


def _check_metadata(metadata: object) -> None:
    if metadata is None:  # as some write that there is none
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderError("its header's __metadata__ is not an object of strings")


def _tensor(name: str, entry: object) -> StoredTensor:
    if (
        not isinstance(entry, dict) or not entry.keys() >= _ENTRY_KEYS
    ):  # what else there is, the reference skips
        raise HeaderError(f"tensor {name!r} is not an object of dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SAFETENSORS:
        raise HeaderError(
            f"tensor {name!r} has dtype {dtype!r}; known are {', '.join(SAFETENSORS)}", "convert it"
        )
    if not _sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise HeaderError(f"tensor {name!r} has a shape that is not a list of up to {_MAX_DIMENSIONS} sizes")
    if not _sizes(offsets) or len(offsets) != len(("begin", "end")) or offsets[0] > offsets[1]:
        raise HeaderError(f"tensor {name!r} has data_offsets that are not a begin and an end")
    try:
        wanted, found = bytes_of(dtype, shape), offsets[1] - offsets[0]
    except ValueError as error:
        raise HeaderError(f"tensor {name!r}: {error}") from error
    if wanted != found:
        raise HeaderError(
            f"tensor {name!r} of {dtype} {shape} takes {wanted} bytes; its data_offsets hold {found}"
        )
    return StoredTensor(name, dtype, tuple(shape), offsets[0], offsets[1])


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(each) is int and 0 <= each <= _INT64_MAX for each in value)
