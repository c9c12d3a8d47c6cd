"""What the pickle in a file of ``torch.save`` stands for: tensors as views of storages, and plain values beside them.

The names are those that ``torch.load(weights_only=True)`` allows, and a few plain values that it does not know.
Whatever else a pickle calls is refused by name: nothing here is ever imported or run.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from protocol.record import Record
from worker.loaders.base import FormatError
from worker.loaders.dtypes import FROM_TORCH, ITEM_BYTES
from worker.loaders.pickle_reader import Named, OddKey, PassedOver, PickleError

MAX_TENSORS = 100_000
MAX_VISITS = 500_000
"""Values that are looked at: containers may be shared, so that a small file stands for any number."""
_MAX_NAME_CHARACTERS = 1000
_MAX_NAMES_CHARACTERS = 16 * 2**20
"""Of all names together, which are kept: shared containers with long keys stand for any number of them."""
_MAX_DEPTH = 64
_MAX_DIMENSIONS = 64
_INT64_MAX = 2**63 - 1
_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL", "ComplexFloatStorage": "C64", "ComplexDoubleStorage": "C128",
}  # fmt: skip
"""The storage classes that torch names in a file, and what their elements are."""
_QUANTIZED = frozenset(
    f"torch.{name}Storage" for name in ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4")
)
_DICTS = frozenset(f"collections.{name}" for name in ("OrderedDict", "Counter", "defaultdict"))
_PLAIN = {
    "_codecs.encode": "bytes", "collections.deque": "deque", "argparse.Namespace": "Namespace",
    "types.SimpleNamespace": "Namespace", "uuid.UUID": "UUID", "decimal.Decimal": "Decimal",
    "fractions.Fraction": "Fraction", "torch.device": "device", "torch.serialization._get_layout": "layout",
    "torch.torch_version.TorchVersion": "str",
    **{f"datetime.{name}": name for name in ("datetime", "date", "time", "timedelta", "timezone")},
    **{
        f"{module}.{name}Path": "path"
        for module in ("pathlib", "pathlib._local") for name in ("Posix", "Windows", "PurePosix", "PureWindows")
    },
    **{
        f"numpy.{core}.{name}": kind
        for core in ("core", "_core")
        for name, kind in (
            ("multiarray.scalar", "numpy scalar"), ("multiarray._reconstruct", "numpy array"),
            ("numeric._frombuffer", "numpy array"),
        )
    },
    "numpy.dtype": "numpy dtype", "numpy.ndarray": "numpy type",
    **{
        f"{module}.{name}": name
        for module in ("builtins", "__builtin__") for name in ("bytearray", "complex", "set", "frozenset", "slice", "range", "xrange")
    },
}  # fmt: skip
"""Calls that make plain values. None is made, whatever size it is given: it is passed over."""
_NOT_DENSE = {
    "_rebuild_sparse_tensor": "sparse", "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_nested_tensor": "nested", "_rebuild_qtensor": "quantized",
    "_rebuild_meta_tensor_no_storage": "on meta", "_rebuild_wrapper_subclass": "a subclass of torch.Tensor",
    "_rebuild_device_tensor_from_numpy": "an array of numpy's",
    "_rebuild_device_tensor_from_cpu_tensor": "of another device",
}  # fmt: skip


class Storage(Record):
    """A storage that the file refers to."""

    key: str
    dtype: str | None
    """None where it is only bytes."""
    size_bytes: int
    """As the reference says."""


class StoredView(Record):
    """A tensor: elements of a storage. Offset and strides count elements."""

    storage: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def span(self) -> tuple[int, int]:
        """From which element of its storage to which it reaches; (0, 0) where it has none."""
        if 0 in self.shape:
            return 0, 0
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return self.offset, self.offset + last + 1


class Unreadable(Record):
    """A tensor that is no plain view of a storage."""

    what: str


class Found(Record):
    """What a file holds."""

    tensors: dict[str, StoredView]
    passed_over: tuple[tuple[str, str], ...]
    """The path and the kind of each value beside them."""


class HoldsCodeError(PickleError):
    """It calls what is no part of a state dict; the message says so at length."""

    advice = ""


def storage_of(reference: Any) -> Storage:
    """Return the storage that a persistent id stands for."""
    if isinstance(reference, tuple) and reference and reference[0] == "module":
        raise HoldsCodeError(_code("a module of Python code"))
    try:
        kind, named, key, _location, count, *view = reference
    except (TypeError, ValueError):
        raise PickleError("it refers to something that is no storage") from None
    known = kind == "storage" and isinstance(named, Named) and isinstance(key, str | int)
    if not known or not _size(count) or any(each is not None for each in view):
        raise PickleError("it refers to something that is no storage")
    if named.name in _QUANTIZED:
        return Storage(str(key), None, count)
    module, _, name = named.name.rpartition(".")
    if module == "torch.storage" and name == "UntypedStorage":
        return Storage(str(key), None, count)
    if module not in {"torch", "torch.cuda"} or name not in _STORAGES:
        raise HoldsCodeError(_code(named.name))
    dtype = _STORAGES[name]
    return Storage(str(key), dtype, count * ITEM_BYTES[dtype])


def called(name: str, arguments: tuple[Any, ...], spend: Callable[[int], None]) -> Any:
    """Return the stand-in for what a call would make. HoldsCodeError for one that is not known."""
    module, _, function = name.rpartition(".")
    if module == "torch._utils" and function.startswith("_rebuild"):
        return _rebuilt(function, arguments)
    if name in _DICTS:
        return _dict(arguments, spend)
    if name in _PLAIN:
        return PassedOver(_PLAIN[name])
    match name, arguments:
        case "torch._tensor._rebuild_from_type_v2", (Named() as rebuild, Named(), tuple() as inner, _):
            return called(rebuild.name, inner, spend)
        case "torch.nn.parameter.Parameter", (StoredView() | Unreadable() as tensor, *_):
            return tensor
        case "torch.Size", (tuple() as sizes,):
            return sizes
    raise HoldsCodeError(_code(name))


def _dict(arguments: tuple[Any, ...], spend: Callable[[int], None]) -> dict[Any, Any]:
    """Make the dict of a call: of nothing, of a dict, or of pairs, as Python 2 wrote it."""
    if not arguments or isinstance(arguments[0], Named):  # a defaultdict is made of what makes its values
        return {}
    (given,) = arguments
    if isinstance(given, dict):
        return given
    spend(len(given))
    return {key if isinstance(key, str | int) else OddKey(): value for key, value in given}


def _rebuilt(function: str, arguments: tuple[Any, ...]) -> StoredView | Unreadable:
    if function in {"_rebuild_parameter", "_rebuild_parameter_with_state"}:
        tensor = arguments[0]
        if not isinstance(tensor, StoredView | Unreadable):
            raise PickleError("its pickle is damaged", FormatError.advice)
        return tensor
    if function in _NOT_DENSE:
        return Unreadable(_NOT_DENSE[function])
    if function not in {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}:
        raise HoldsCodeError(_code(f"torch._utils.{function}"))
    storage, offset, shape, strides, *rest = arguments
    if not isinstance(storage, Storage):
        raise PickleError("its pickle is damaged", FormatError.advice)
    dtype, metadata_at = storage.dtype, 2
    if function == "_rebuild_tensor_v3":
        dtype, metadata_at = FROM_TORCH.get(rest[2].name), 3
        if dtype is None:
            return Unreadable(f"of {rest[2].name}")
    if dtype is None:
        return Unreadable("quantized, or of no type")
    if rest[metadata_at:] and isinstance(rest[metadata_at], dict) and any(rest[metadata_at].values()):
        return Unreadable("a lazy view: conjugate, or negative")
    return _view(storage, dtype, offset, shape, strides)


def _view(storage: Storage, dtype: str, offset: Any, shape: Any, strides: Any) -> StoredView:
    """Check a view against its storage."""
    sizes = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)
    if not sizes or len(shape) > _MAX_DIMENSIONS or not all(map(_size, (*shape, *strides, offset))):
        raise PickleError("it has a tensor whose shape, strides and offset are no sizes")
    view = StoredView(storage.key, dtype, shape, strides, offset)
    claimed = 1
    for size in shape:
        claimed = 0 if 0 in shape else claimed * size
        if claimed * ITEM_BYTES[dtype] > _INT64_MAX:
            raise PickleError("it claims a tensor of more than 2^63 bytes")
    end_bytes = view.span[1] * ITEM_BYTES[dtype]
    if end_bytes > storage.size_bytes:
        message = f"it has a tensor that ends at byte {end_bytes} of a storage of {storage.size_bytes}"
        raise PickleError(message)
    return view


def found_in(root: Any) -> Found:
    """Find the tensors in what a pickle stands for, by path. PickleError if there are none, or too much else."""
    tensors: dict[str, StoredView] = {}
    passed: list[tuple[str, str]] = []
    left = _MAX_NAMES_CHARACTERS
    for path, value in _leaves(root, "", frozenset(), itertools.count()):
        left -= len(path)
        if left < 0:
            message = f"the names in it take more than {_MAX_NAMES_CHARACTERS} characters"
            raise PickleError(message)
        if isinstance(value, Unreadable):
            message = (
                f"tensor {path!r} is {value.what}; only dense tensors with bytes in the file can be loaded"
            )
            raise PickleError(message)
        if not isinstance(value, StoredView):
            passed.append((path, value.kind if isinstance(value, PassedOver) else type(value).__name__))
        elif path in tensors:
            message = f"two of its tensors flatten to the name {path!r}"
            raise PickleError(message)
        else:
            tensors[path or "tensor"] = value
            if len(tensors) > MAX_TENSORS:
                message = f"it names more than {MAX_TENSORS} tensors"
                raise PickleError(message)
    if passed and not tensors:
        path, kind = passed[0]
        message = f"it holds no tensors: {repr(path) if path else 'what it holds'} is a {kind}"
        raise PickleError(message)
    return Found(tensors, tuple(passed))


def _leaves(
    value: Any, path: str, above: frozenset[int], visits: "itertools.count[int]"
) -> Iterator[tuple[str, Any]]:
    """Walk the containers. Each is walked as often as it is named, but never inside itself."""
    if next(visits) > MAX_VISITS:
        message = f"it holds more than {MAX_VISITS} values"
        raise PickleError(message)
    if not isinstance(value, dict | list | tuple):
        yield path, value
        return
    if id(value) in above:
        message = f"{path!r} is inside itself"
        raise PickleError(message)
    if len(above) > _MAX_DEPTH or len(path) > _MAX_NAME_CHARACTERS:
        message = (
            f"its containers nest deeper than {_MAX_DEPTH}, or to names of more than {_MAX_NAME_CHARACTERS}"
        )
        raise PickleError(message)
    inside = above | {id(value)}
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        plain = isinstance(key, str | int)
        if not plain and isinstance(each, StoredView | Unreadable | dict | list | tuple):
            kind = "container or an object" if isinstance(key, OddKey) else type(key).__name__
            message = f"{repr(path) if path else 'it'} has a key that is a {kind}"
            raise PickleError(message)
        name = str(key) if plain else type(key).__name__
        if len(name) > _MAX_NAME_CHARACTERS:
            message = f"{path!r} has a key of more than {_MAX_NAME_CHARACTERS} characters"
            raise PickleError(message)
        yield from _leaves(each, f"{path}.{name}" if path else name, inside, visits)


def _size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _INT64_MAX


def _code(name: str) -> str:
    shown = name if len(name) <= 200 else f"{name[:200]}..."  # noqa: PLR2004 - what a reader can take in
    return (
        f"it holds more than tensors, and nothing of it was run: it calls {shown}; where you trust it, load it with"
        " torch.load and save its state dict, as safetensors best"
    )
