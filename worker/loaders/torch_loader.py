"""Weights that ``torch.save`` wrote: a state dict of tensors. Nothing else is unpickled, so no code runs."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

from worker.core.cancellation import CancelToken
from worker.core.errors import ModelLoadFailedError
from worker.core.models import ModelSpec
from worker.loaders.base import lay_out, load_failed
from worker.loaders.dtypes import FROM_TORCH, ITEM_BYTES
from worker.loaders.mapped_pages import MappedPages
from worker.loaders.model_path import open_file, resolved_file
from worker.loaders.tensors import flat_tensor
from worker.loaders.torch_archive import NotDescribedError, described_tensors

if TYPE_CHECKING:
    import torch

_MAX_DEPTH = 64
_STEP_ELEMENTS = 2**19
"""What is copied at a time: also what a tensor with gaps or in another order takes beside the block."""


class TorchLoader:
    """Maps the file and reads its structure; the weights stay in the file until they are copied."""

    def estimate(self, spec: ModelSpec) -> int | None:
        """Return the block's size after the cast, as the file describes its tensors; torch is not imported."""
        descriptor, _ = open_file(spec)
        with os.fdopen(descriptor, "rb") as file:
            try:
                described = described_tensors(file)
            except NotDescribedError:
                return None
        return lay_out((("", each.dtype, each.shape) for each in described), spec.dtype)[1]

    def open(self, spec: ModelSpec) -> "TorchFile":
        """Map the file and check that it is a state dict."""
        descriptor, _ = open_file(spec)
        try:
            _check_archive(spec, descriptor)
        finally:
            os.close(descriptor)  # torch maps a file by its name
        path = resolved_file(spec)
        failure: ModelLoadFailedError | None = None
        try:
            return TorchFile(spec, _load(spec, path), MappedPages(path))
        except ModelLoadFailedError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - torch's own are of many kinds
            failure = load_failed(spec, _cause(error))
        # A failure that is kept must not keep the mapping, which the frames of its traceback hold.
        raise failure.with_traceback(None)


class TorchFile:
    """A WeightFile over a mapping of the file."""

    def __init__(self, spec: ModelSpec, named: dict[str, "torch.Tensor"], pages: MappedPages) -> None:
        self.tensors, self.total_bytes = lay_out(
            ((name, FROM_TORCH[str(each.dtype)], tuple(each.shape)) for name, each in named.items()),
            spec.dtype,
        )
        self._pages = pages
        # All mutable state: the mapped tensors, until it is closed.
        self._mapped = list(named.values())

    def read_into(self, index: int, start: int, target: memoryview, token: CancelToken) -> None:
        """Copy out of the mapping, casting on the way, and let the pages that were read go again."""
        info = self.tensors[index]
        tensor = self._mapped[index]
        item = ITEM_BYTES[info.dtype]
        first, last = start // item, (start + target.nbytes) // item
        whole = flat_tensor(target, info.dtype)
        contiguous = tensor.is_contiguous()
        for begin in range(first, last, _STEP_ELEMENTS):
            token.check()
            end = min(last, begin + _STEP_ELEMENTS)
            part = whole[begin - first : end - first]
            if contiguous:
                source = tensor.view(-1)[begin:end]
                part.copy_(source)
                self._pages.release(source.data_ptr(), source.nbytes)
            else:
                part.copy_(_gathered(tensor, begin, end))

    def close(self) -> None:
        """Let go of the mapping."""
        self._mapped.clear()


def _load(spec: ModelSpec, path: Path) -> dict[str, "torch.Tensor"]:
    import torch  # noqa: PLC0415 - seconds, and only for a model of this kind

    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    named: dict[str, torch.Tensor] = {}
    for name, tensor in _tensors(spec, state, "", {}):
        if name in named:
            raise load_failed(spec, f"two of its tensors flatten to the name {name!r}")
        named[name] = tensor
    return named


def _check_archive(spec: ModelSpec, descriptor: int) -> None:
    """Refuse what a mapping would misread: torch takes records as they lie in the file."""
    try:
        with open(descriptor, "rb", closefd=False) as file, ZipFile(file) as archive:
            for record in archive.infolist():
                if record.compress_type != ZIP_STORED:
                    raise load_failed(spec, f"its record {record.filename!r} is compressed")
                if record.filename.endswith("/byteorder") and archive.read(record) != sys.byteorder.encode():
                    raise load_failed(spec, f"its byte order is not this machine's, {sys.byteorder} endian")
    except (BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise load_failed(
            spec, f"it is not a file that torch.save wrote in its zip format: {error}"
        ) from error


def _tensors(
    spec: ModelSpec, value: Any, name: str, seen: dict[int, str], depth: int = 0
) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Walk nested dicts. ``seen`` has each dict's first name: one that returns may be endless."""
    import torch  # noqa: PLC0415

    where = repr(name) if name else "what it holds"
    if isinstance(value, torch.Tensor):
        yield name, _checked(spec, value, name)
    elif not isinstance(value, dict):
        raise load_failed(spec, f"{where} is a {type(value).__name__}; a state dict has tensors only")
    elif depth > _MAX_DEPTH:
        raise load_failed(spec, f"its dicts nest deeper than {_MAX_DEPTH}")
    elif id(value) in seen:
        raise load_failed(spec, f"{where} is the same dict as {seen[id(value)]!r}")
    else:
        seen[id(value)] = name
        for key, each in value.items():
            if not isinstance(key, str | int):
                raise load_failed(spec, f"{where} has a key that is a {type(key).__name__}")
            yield from _tensors(spec, each, f"{name}.{key}" if name else str(key), seen, depth + 1)


def _checked(spec: ModelSpec, tensor: "torch.Tensor", name: str) -> "torch.Tensor":
    if str(tensor.dtype) not in FROM_TORCH or str(tensor.layout) != "torch.strided":
        what = f"{tensor.dtype}, {tensor.layout}"
        raise load_failed(spec, f"tensor {name!r} is {what}; known are {', '.join(FROM_TORCH)}, strided")
    if tensor.device.type != "cpu":
        raise load_failed(spec, f"tensor {name!r} has no bytes in the file: it is on {tensor.device}")
    return tensor.detach()


def _gathered(tensor: "torch.Tensor", begin: int, end: int) -> "torch.Tensor":
    """Return elements of a tensor that lies in another order, without making all of it anew."""
    import torch  # noqa: PLC0415

    places = torch.unravel_index(torch.arange(begin, end), tensor.shape)
    return tensor[places]


def _cause(error: Exception) -> str:
    """Say in a sentence what torch says in a page."""
    text = str(error).strip()
    if "eights_only" in text or "Unsupported" in text:
        lines = [line.strip() for line in text.splitlines() if "Unsupported" in line or "GLOBAL" in line]
        found = (lines or text.splitlines())[0]
        return f"it holds more than tensors, and nothing of it was run: {found}"
    first = text.splitlines()[0] if text else "no reason given"
    return f"it is not a file that torch.save wrote in its zip format: {type(error).__name__}: {first}"
