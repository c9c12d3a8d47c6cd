"""A file of ``torch.save`` in the format before 1.6: five pickles, then the storages, each after its length."""

import re
import sys
from typing import Any

from worker.loaders.base import FormatError
from worker.loaders.dtypes import ITEM_BYTES
from worker.loaders.pickle_reader import PickleError, PickleReader
from worker.loaders.positional_file import PositionalFile
from worker.loaders.torch_archive import MAX_PICKLE_BYTES, Described
from worker.loaders.torch_values import Storage, called, found_in, storage_of
from worker.loaders.zip_records import read_exactly

_MAGIC = re.compile(
    rb"\x80[\2-\5](\x95\x0d\0{7})?\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\.", re.DOTALL
)
"""torch's magic number 0x1950a86a20f9469cfc6c as a pickle, of protocol 2 mostly, which is what all such files begin with."""
_SHORTEST_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_LENGTH_BYTES = 8


def is_legacy(head: bytes) -> bool:
    """Tell whether a file begins so, as far as it goes."""
    return _MAGIC.match(head) is not None or _SHORTEST_MAGIC.startswith(head)


def described_legacy(file: PositionalFile) -> Described:
    """Describe such a file. PickleError or ZipError, in words, for one that is not to be loaded."""
    # Mutable while the pickles are followed: the storages that the tensors refer to.
    storages: dict[str, Storage] = {}

    def refer(reference: Any) -> Storage:
        storage = storage_of(reference)
        return storages.setdefault(storage.key, storage)

    text = read_exactly(file, 0, min(file.size_bytes, MAX_PICKLE_BYTES))
    reader = PickleReader(text, refer, called)
    magic, protocol, machine = reader.read(), reader.read(), reader.read()
    if magic != _MAGIC_NUMBER or protocol != _PROTOCOL or not isinstance(machine, dict):
        raise PickleError("it does not begin as a file of torch.save does")
    if machine.get("little_endian") is not (sys.byteorder == "little"):
        message = f"its byte order is not this machine's, {sys.byteorder} endian"
        raise PickleError(message, "save it anew as safetensors")
    found, keys = found_in(reader.read()), reader.read()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise PickleError("its list of storages is damaged", FormatError.advice)
    begins, at = {}, reader.position
    for key in keys:
        storage = storages.get(key)
        if storage is None or storage.dtype is None:
            message = f"its storage {key!r} is of no type that is known"
            raise PickleError(message)
        count = int.from_bytes(read_exactly(file, at, _LENGTH_BYTES), "little")
        size, begins[key] = count * ITEM_BYTES[storage.dtype], at + _LENGTH_BYTES
        at = begins[key] + size
        if size != storage.size_bytes or at > file.size_bytes:
            message = f"it is cut short: its storage {key!r} of {storage.size_bytes} bytes is not all there"
            raise PickleError(message, FormatError.advice)
    for name, view in found.tensors.items():
        if view.storage not in begins:
            message = f"the storage of its tensor {name!r} is not in it"
            raise PickleError(message, FormatError.advice)
    return Described(found.tensors, found.passed_over, begins)
