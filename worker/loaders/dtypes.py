"""The element types that weights come in, under the words of the safetensors format."""

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1,
    "C64": 8, "BOOL": 1,
}  # fmt: skip
"""Bytes of one element."""

TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "C64": "complex64", "BOOL": "bool",
}  # fmt: skip
"""The same as torch calls them."""

FROM_TORCH = {f"torch.{name}": word for word, name in TORCH_NAMES.items()}
"""From ``str(tensor.dtype)``."""
