"""A file of ``torch.save`` in its zip format: what it says of its tensors, and where each storage's bytes lie.

Read without torch, by position, and nothing in it is run or inflated (``pickle_reader``).
"""

import sys

from protocol.record import Record
from worker.loaders.dtypes import ITEM_BYTES
from worker.loaders.pickle_reader import PickleReader
from worker.loaders.positional_file import PositionalFile
from worker.loaders.torch_values import Found, StoredView, called, found_in, storage_of
from worker.loaders.zip_records import ZipError, ZipRecord, ZipRecords, read_exactly

MAX_PICKLE_BYTES = 16 * 2**20
_MAX_WORD_BYTES = 16


class Described(Record):
    """A torch file's tensors by name, and where its storages are."""

    tensors: dict[str, StoredView]
    passed_over: tuple[tuple[str, str], ...]
    begins: dict[str, int]
    """Where each storage that a tensor is in begins in the file."""


def described_archive(file: PositionalFile) -> Described:
    """Describe a zip. PickleError or ZipError, in words, for one that is not to be loaded."""
    archive = ZipRecords(file)
    pickle = _pickle(archive)
    if pickle is None:
        raise ZipError(
            "it is a zip archive without torch's record data.pkl, so no file of torch.save",
            "unpack it, and declare the model in it",
        )
    folder = pickle.name.removesuffix("data.pkl")
    if f"{folder}constants.pkl" in archive.records:
        raise ZipError(
            "it is a TorchScript archive (torch.jit.save), a program with its weights",
            "declare the loader torch.jit, or none",
        )
    _check_byte_order(file, archive, archive.records.get(f"{folder}byteorder"))
    text = _contents(file, archive, pickle, MAX_PICKLE_BYTES)
    reader = PickleReader(text, storage_of, called)
    found = found_in(reader.read())
    return Described(found.tensors, found.passed_over, _begins(archive, folder, found))


def script_bytes(file: PositionalFile) -> int | None:
    """Return what the tensors of a TorchScript archive take; None for an archive that is none. ZipError for no archive."""
    archive = ZipRecords(file)
    pickle = _pickle(archive)
    folder = "" if pickle is None else pickle.name.removesuffix("data.pkl")
    if pickle is None or f"{folder}constants.pkl" not in archive.records:
        return None
    tensors = f"{folder}data/", f"{folder}constants/"
    return sum(each.size_bytes for name, each in archive.records.items() if name.startswith(tensors))


def _pickle(archive: ZipRecords) -> ZipRecord | None:
    """Return the record that torch's archives have once; None where there is not just one."""
    found = [
        each for name, each in archive.records.items() if name == "data.pkl" or name.endswith("/data.pkl")
    ]
    return found[0] if len(found) == 1 else None


def _begins(archive: ZipRecords, folder: str, found: Found) -> dict[str, int]:
    """Find every storage, and see that it holds what the tensors in it need."""
    needed: dict[str, int] = {}
    for view in found.tensors.values():
        end = view.span[1] * ITEM_BYTES[view.dtype]
        needed[view.storage] = max(end, needed.get(view.storage, 0))
    begins = {}
    for key, end in needed.items():
        record = archive.records.get(f"{folder}data/{key}")
        if record is None and end:
            raise ZipError(f"its storage {key!r} is not in it")
        if record is None:
            begins[key] = 0
            continue
        begins[key] = archive.begin(record)
        if record.size_bytes < end:
            raise ZipError(f"its storage {key!r} has {record.size_bytes} bytes; its tensors take {end}")
    return begins


def _check_byte_order(file: PositionalFile, archive: ZipRecords, record: ZipRecord | None) -> None:
    if record is None:
        return  # older files: little-endian machines wrote them
    word = _contents(file, archive, record, _MAX_WORD_BYTES)
    if word != sys.byteorder.encode():
        raise ZipError(
            f"its byte order is not this machine's, {sys.byteorder} endian", "save it anew as safetensors"
        )


def _contents(file: PositionalFile, archive: ZipRecords, record: ZipRecord, most_bytes: int) -> bytes:
    if record.size_bytes > most_bytes:
        raise ZipError(
            f"its record {record.name!r} has {record.size_bytes} bytes; {most_bytes} is the most that is read",
            "save its weights alone, as safetensors",
        )
    return read_exactly(file, archive.begin(record), record.size_bytes)
