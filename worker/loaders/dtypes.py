"""The element types that weights come in, under the words of the safetensors format."""

import math
from collections.abc import Iterable

ITEM_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8,
    "U64": 64, "U32": 32, "U16": 16, "U8": 8,
    "C128": 128, "C64": 64, "C32": 32, "BOOL": 8,
    "F4_X2": 8, "BITS8": 8, "BITS16": 16, "BITS1X8": 8, "BITS2X4": 8, "BITS4X2": 8,
}  # fmt: skip
"""Bits of one element. Those of less than a byte are packed, and a tensor of them is whole bytes."""

ITEM_BYTES = {word: bits // 8 for word, bits in ITEM_BITS.items() if bits % 8 == 0}
"""Bytes of one element, of those that have whole ones."""

TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "C64": "complex64", "BOOL": "bool",
}  # fmt: skip
"""The same as torch calls them, where it has one for each element."""

ONLY_TORCH = {
    "C128": "complex128", "C32": "complex32", "F4_X2": "float4_e2m1fn_x2",
    "BITS8": "bits8", "BITS16": "bits16", "BITS1X8": "bits1x8", "BITS2X4": "bits2x4", "BITS4X2": "bits4x2",
}  # fmt: skip
"""Those that only torch's own files have. ``F4_X2`` is two of F4 in an element, as torch counts them."""

SAFETENSORS = tuple(word for word in ITEM_BITS if word not in ONLY_TORCH)
"""What the format knows, as its reference library 0.8 has it."""

FROM_TORCH = {f"torch.{name}": word for word, name in (TORCH_NAMES | ONLY_TORCH).items()}
"""From ``str(tensor.dtype)``."""

CASTABLE = frozenset(word for word in ITEM_BYTES if "F" in word and word not in ONLY_TORCH)
"""What a cast changes: floating-point numbers of whole bytes; packed ones mean nothing without their scales."""


def bytes_of(word: str, shape: Iterable[int]) -> int:
    """Return what a dense tensor takes, in bytes. ValueError where it would end inside one."""
    whole, rest = divmod(math.prod(shape) * ITEM_BITS[word], 8)
    if rest:
        message = f"{word} of this shape ends inside a byte"
        raise ValueError(message)
    return whole
