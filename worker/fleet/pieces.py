"""Pieces of shared allocations, as a node's actor reads and writes them: it maps what its worker made."""

import hashlib
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

Ask = Callable[[str, dict[str, Any]], dict[str, Any]]


def read_piece(ask: Ask, allocation_id: str, offset: int, length: int) -> tuple[bytes, bytes]:
    """Return a piece and its SHA-256. OSError or WorkerError where the allocation is gone."""
    with _path_of(ask, allocation_id).open("rb") as file:
        file.seek(offset)
        piece = file.read(length)
    return piece, hashlib.sha256(piece).digest()


def write_piece(ask: Ask, allocation_id: str, offset: int, piece: bytes) -> bytes:
    """Write a piece, and return the SHA-256 of what is there then."""
    with (
        _path_of(ask, allocation_id).open("r+b") as file,
        mmap.mmap(file.fileno(), 0) as mapped,
        memoryview(mapped) as view,
        view[offset : offset + len(piece)] as there,
    ):
        there[:] = piece
        return hashlib.sha256(there).digest()


def _path_of(ask: Ask, allocation_id: str) -> Path:
    rows = ask("memory.get_allocations", {"allocation_id": allocation_id})["allocations"]
    return Path(rows[0]["shared_memory"]["path"])
