"""Finding and opening a model's files: only below the model root, and only what are really files.

A model is a file, a list of shards, the first of them, an index that names them, or a folder that has one of these. A root that is
a snapshot of a hub cache (``models--*/snapshots/*``) stands for its ``models--*`` folder: links into that folder's
``blobs`` are followed, and no others.
"""

import json
import os
import re
import stat
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from posixpath import normpath

from protocol.record import Record
from worker.core.errors import ModelLoadFailedError
from worker.core.models import ModelSpec
from worker.core.paths import exists, resolved, said_of
from worker.loaders.base import load_failed, reading

_OPEN_FLAGS = (
    os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
)
"""Opening a pipe must not wait for its writer; the path is resolved already; Windows must not translate."""
_INDEX = ".index.json"
_ANY_INDEX = re.compile(r"\.index(\.\w+)?\.json$")
"""A variant's is named so: ``model.safetensors.index.fp16.json``."""
_UNFINISHED = ".aria2"
"""What aria2 has beside a file until all of it is there: the file itself has its whole length from the first moment on."""
_MAX_INDEX_BYTES = 64 * 2**20
_MAX_SHARDS = 10_000
_MAX_REVISION_CHARACTERS = 256
_PIPELINE = "model_index.json"
"""In the folder of a pipeline of diffusers."""
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx")
"""What a folder is searched for, in this order; which loader a file is for, its contents say."""
_OF_LOADERS = {
    "safetensors": (".safetensors",), "torch": (".bin", ".pt", ".pth"), "torch.jit": (".pt", ".pth"),
    "gguf": (".gguf",), "onnx": (".onnx",),
}  # fmt: skip
"""What it is searched for first where a loader is declared: beside an ONNX model may be a ``.bin`` with its weights."""
_STEMS = ("model", "pytorch_model", "diffusion_pytorch_model")
"""What the hub's libraries call the one file of a model; what else is beside it is no part of it."""
_OF = re.compile(r"-(\d+)-of-(\d+)\.\w+$")

Identity = tuple[tuple[Path, int, int, int, int], ...]
"""Of each file: where it is declared, device and inode, and its size and when it was written to."""


class ModelFiles(Record):
    """The files of a model."""

    real: tuple[Path, ...]
    """Where they lie."""
    declared: tuple[Path, ...]
    """Where they, and what names them, are found: links in these are followed each time."""
    index: dict[str, str] | None = None
    """The file of each tensor, by name, where an index says that."""

    def names(self, spec: ModelSpec) -> tuple[str | None, ...]:
        """Return what to call each file; None for the one that is declared, and is all there is."""
        if self.declared == (spec.path,):
            return (None,)
        return tuple(each.name for each in self.declared[-len(self.real) :])


def confined(path: Path, root: Path) -> Path:
    """Follow all links, and return where the path leads. ValueError, in words, if that is not below ``root``.

    What does not exist yet passes: a model may arrive later.
    """
    root = root.resolve()
    try:
        real = resolved(root / path)
    except ValueError as error:
        message = "its path has a character that no path can have: correct it"
        raise ValueError(message) from error
    except OSError as error:
        message = f"it can't be followed: {said_of(error)}"
        raise ValueError(message) from error
    cache = root.parent.parent
    is_snapshot = root.parent.name == "snapshots" and cache.name.startswith("models--")
    if is_snapshot and real.parent == cache / "blobs":
        return real
    if real == root or not real.is_relative_to(root):
        hub = real.parent.parent
        is_blob = real.parent.name == "blobs" and hub.name.startswith("models--")
        hint = (
            f"; it is in a hub cache, so use --model-root {hub} or the snapshot itself"
            if is_blob
            else "; move it there, or use another --model-root"
        )
        message = f"it leads to {real}, which is not below the model root {root}{hint}"
        if real == root:
            message = f"it is the model root {root} itself: declare what is in it, or use the folder above as --model-root"
        raise ValueError(message)
    return real


def resolved_file(spec: ModelSpec) -> Path:
    """Return where the model's file really lies now."""
    return _confined(spec, spec.path)


def model_files(spec: ModelSpec) -> ModelFiles:
    """Return the model's files. ModelLoadFailedError with the cause where they can't be told."""
    with reading(spec):
        paths = (*filter(None, (spec.path,)), *spec.more_paths)
        declared = paths if len(paths) > 1 else _stands_for(spec)
        real = tuple(_confined(spec, each) for each in declared)
        if len(real) == 1 and _ANY_INDEX.search(declared[0].name):
            return _indexed(spec, real[0], declared[0])
        return ModelFiles(real, declared)


def _stands_for(spec: ModelSpec) -> tuple[Path, ...]:
    """Return what a model's one path stands for: a folder for what is in it, the first shard for all of them."""
    real, path = _confined(spec, spec.path), spec.path or Path()
    if real.is_dir():
        folder = _snapshot(spec, path, real)
        names = _without_data(spec, folder, sorted(each.name for each in folder.iterdir()))
        return tuple(folder / name for name in _chosen(spec, names))
    shard = _OF.search(path.name)
    if shard is None or path.suffix == ".gguf":  # whose header says what it is a part of
        return (path,)
    number, total = int(shard[1]), int(shard[2])
    if not 0 < number <= total <= _MAX_SHARDS:
        return (path,)
    if number > 1:
        raise load_failed(
            spec, f"it is one of {total} files of a model: declare the first of them, or their folder"
        )
    head, width, tail = path.name[: shard.start(1)], len(shard[1]), path.name[shard.end(1) :]
    return tuple(path.with_name(f"{head}{each:0{width}}{tail}") for each in range(1, total + 1))


def _snapshot(spec: ModelSpec, path: Path, real: Path) -> Path:
    """Return the snapshot of a hub cache's folder of a model, the one of ``main`` or the only one; of others, the folder."""
    if not (real / "snapshots").is_dir():
        return path
    names = sorted(each.name for each in (real / "snapshots").iterdir())
    main = _text_of(real / "refs" / "main", _MAX_REVISION_CHARACTERS)
    names = [main] if main in names else names
    if len(names) != 1:
        there = (
            f"several snapshots, {', '.join(names[:5])}: declare one"
            if names
            else "no snapshot: download it again"
        )
        raise load_failed(spec, f"it is a hub cache's folder with {there}")
    return path / "snapshots" / names[0]


def _text_of(path: Path, most: int) -> str | None:
    """Return how a small file begins; None where there is none, or what is there is no file."""
    with suppress(FileNotFoundError):
        descriptor = os.open(path, _OPEN_FLAGS & ~getattr(os, "O_NOFOLLOW", 0))
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return os.fsdecode(os.read(descriptor, most)).strip()
        finally:
            os.close(descriptor)
    return None


def _confined(spec: ModelSpec, path: Path | None) -> Path:
    if path is None or spec.model_root is None:
        raise load_failed(spec, "it has no path: declare one")
    try:
        real = confined(path, spec.model_root)
    except ValueError as error:
        raise load_failed(spec, str(error)) from error
    check_link(spec, path, real)
    return real


def check_link(spec: ModelSpec, path: Path, real: Path) -> None:
    """See that a path below the model root, where it is a link, leads to something. ModelLoadFailedError."""
    if spec.model_root is not None and (spec.model_root / path).is_symlink() and not exists(real):
        raise load_failed(spec, _nowhere(real))


def _nowhere(real: Path) -> str:
    """Say what to do about a link to a file that is not there."""
    if "annex" in real.parts and "objects" in real.parts:
        return (
            "it is a link of git-annex, and its contents are not on this machine; run 'git annex get' for it"
        )
    if real.parent.name == "blobs" and real.parent.parent.name.startswith("models--"):
        return f"it is a link of a hub cache to {real.name}, which is not there: its download never ended; download it again"
    return f"it is a link to {real}, which is not there: correct it, or put the file there"


def _without_data(spec: ModelSpec, folder: Path, names: list[str]) -> list[str]:
    """Leave out each ``.bin`` with the tensors of an ONNX model beside it, unless the declared loader reads such files."""
    models = [folder / name for name in names if name.endswith(".onnx") and not name.startswith(".")]
    if not models or ".bin" in _OF_LOADERS.get(spec.loader or "", ()):
        return names
    return [name for name in names if not name.endswith(".bin") or _is_model(spec, folder / name, models)]


def _is_model(spec: ModelSpec, path: Path, beside: list[Path]) -> bool:
    """Tell whether a file beside ONNX models is one itself, by its first bytes; where these may be a tensor's, it is if none of them names it."""
    from worker.loaders.file_kind import PICKLES, head_of, loader_for, not_a_model  # noqa: PLC0415 - only beside an ONNX model
    from worker.loaders.positional_file import PositionalFile  # noqa: PLC0415 - as above

    try:
        with closing(PositionalFile(*open_file(spec, _confined(spec, path)))) as file, reading(spec):
            head = head_of(file)
    except ModelLoadFailedError:  # told of where it is chosen
        return True
    if head.startswith(PICKLES) or not_a_model(head, file.size_bytes) is not None:  # two bytes, or zeros
        return not any(path.name in _data_of(spec, each) for each in beside)
    return loader_for(head) is not None


def _data_of(spec: ModelSpec, path: Path) -> frozenset[str]:
    """Return the files with an ONNX model's tensors; none where it can't be read, which is told where it is chosen."""
    from worker.loaders.onnx_header import read_header  # noqa: PLC0415 - only where a file may be one of them

    with suppress(ModelLoadFailedError):
        descriptor, size, _ = open_file(spec, _confined(spec, path))
        with os.fdopen(descriptor, "rb") as file, reading(spec):
            return frozenset(normpath(each.location) for each in read_header(file, size).external)
    return frozenset()


def _chosen(spec: ModelSpec, names: list[str]) -> list[str]:
    """Choose what of a folder is the model: the file that is known by its name, else its index, else those of one suffix.

    An index stands for files of its own suffix, where there are any: who downloads one format has the other's index, too.
    """
    names = [name for name in names if not name.startswith(".")]  # such as macOS' own, ._model.safetensors
    indexes = [name for name in names if name.endswith(_INDEX)]
    own = _OF_LOADERS.get(spec.loader or "", ())
    suffixes = (*own, *(each for each in _SUFFIXES if each not in own))
    for suffix in suffixes:
        whole = _known(names, suffix)
        if whole is not None:
            return [whole]
        named = [name for name in indexes if name.endswith(f"{suffix}{_INDEX}")]
        if named and any(name.lower().endswith(suffix) for name in names):
            return [_one_index(spec, named)]
    for suffix in suffixes:
        found = [name for name in names if name.lower().endswith(suffix)]  # as Windows has them the same
        shards = [name for name in found if _OF.search(name)]
        if shards:
            return _one_set(spec, shards)
        if found and (len(found) == 1 or suffix == ".safetensors"):
            return found
        if found:
            raise load_failed(
                spec, f"it is a folder with several models, {', '.join(found[:5])}: declare one of them"
            )
    if indexes:
        return [_one_index(spec, indexes)]
    if _PIPELINE in names:
        raise load_failed(
            spec,
            f"it is a pipeline of several models ({_PIPELINE}): declare each folder in it that is needed, as a model of its own",
        )
    raise load_failed(
        spec,
        f"it is a folder without a model: there is no *{_INDEX} and none of *{', *'.join(_SUFFIXES)} in it;"
        " download it, or declare its file",
    )


def _known(names: list[str], ending: str) -> str | None:
    return next((f"{stem}{ending}" for stem in _STEMS if f"{stem}{ending}" in names), None)


def _one_index(spec: ModelSpec, names: list[str]) -> str:
    known = next((each for suffix in _SUFFIXES if (each := _known(names, f"{suffix}{_INDEX}"))), None)
    if known is None and len(names) > 1:
        raise load_failed(
            spec, f"it is a folder with several indexes, {', '.join(names)}: declare one of them"
        )
    return known or names[0]


def _one_set(spec: ModelSpec, shards: list[str]) -> list[str]:
    """Return the shards of the one model that they are of. ModelLoadFailedError where they are of several, or one is missing, by their names."""
    sets: dict[tuple[str, int], dict[int, str]] = {}
    for name in shards:
        match = _OF.search(name)
        if match is not None:
            sets.setdefault((name[: match.start()], int(match[2])), {})[int(match[1])] = name
    if len(sets) > 1:
        firsts = ", ".join(min(each.values()) for each in list(sets.values())[:5])
        raise load_failed(
            spec, f"it is a folder with several models in shards, {firsts}: declare the first file of one"
        )
    (((_, total), numbered),) = sets.items()
    missing = next(
        (number for number in range(1, min(total, _MAX_SHARDS) + 1) if number not in numbered), None
    )
    if missing is not None:
        raise load_failed(spec, f"shard {missing} of {total} is not in its folder: download it")
    return shards


def _indexed(spec: ModelSpec, real: Path, declared: Path) -> ModelFiles:
    """Read an index: which tensor is in which file beside it."""
    descriptor, size, _ = open_file(spec, real)
    with os.fdopen(descriptor, "rb") as file:
        if size > _MAX_INDEX_BYTES:
            raise load_failed(
                spec,
                f"its index has {size} bytes; {_MAX_INDEX_BYTES} is the most that is read: declare a list of its shards",
            )
        text = file.read(size)
    try:
        weight_map = json.loads(text)["weight_map"]
        good = all(isinstance(name, str) and name for name in weight_map.values())
        names = sorted({normpath(name) for name in weight_map.values()}) if good else []
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise load_failed(spec, _no_index(text)) from error
    if not 0 < len(names) <= _MAX_SHARDS:
        raise load_failed(spec, _no_index(text))
    shards = tuple(declared.parent / name for name in names)
    found = tuple(_confined(spec, each) for each in shards)
    for shard, where in zip(shards, found, strict=True):
        if not exists(where):
            raise load_failed(spec, f"its index names {shard.name}, which is not there: download it")
    return ModelFiles(found, (declared, *shards), weight_map)


def _no_index(text: bytes) -> str:
    """Say what is wrong with what is called an index: it may be a pointer to one, or a page."""
    from worker.loaders.file_kind import not_a_model  # noqa: PLC0415 - only for one that can't be read

    other = None if text.lstrip()[:1] == b"{" else not_a_model(text, len(text))
    return (
        f"its index: {other}"
        if other
        else "its index has no weight_map of tensors to files: download it again"
    )


def open_file(spec: ModelSpec, path: Path | None = None) -> tuple[int, int, Path]:
    """Open a file of the model. Returns the descriptor, which the caller closes, the size in bytes, and where it lies."""
    path = resolved_file(spec) if path is None else path
    with reading(spec), ExitStack() as undo:
        if path.is_dir():
            raise load_failed(spec, "it is a folder, and one file is wanted: declare the file in it")
        if os.path.lexists(f"{path}{_UNFINISHED}"):
            beside = f"{path.name}{_UNFINISHED}"
            raise load_failed(
                spec, f"its download by aria2 is not over: {beside} is beside it; download the rest of it"
            )
        descriptor = os.open(path, _OPEN_FLAGS)
        undo.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise load_failed(spec, "it is a pipe, a socket or a device: declare the model's file")
        undo.pop_all()
    return descriptor, status.st_size, path


def identity_of(paths: tuple[Path, ...]) -> Identity | None:
    """Return what tells whether one of the files is another now; None where one can't be looked at."""
    found = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            return None
        found.append((path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)
