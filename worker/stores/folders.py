"""Loading a folder of texts into a store of documents: each file in pieces, and only what changed since."""

import os
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import orjson

from worker.core.cancellation import CancelToken
from worker.core.paths import printable, resolved, said_of
from worker.plugins import InvalidRequestError, LoadedFolder, UnsupportedError
from worker.stores.base import Choice, Content, Embed, FolderRequest, Item, Store
from worker.stores.documents import DocumentStore

_AS = "loaded as "
FILE_BYTES_MAX = 16 * 2**20
"""A text that is larger is no document that a person reads: it is refused, so that memory stays bounded."""
REFUSED_MAX = 1_000
CHUNK_BYTES_MIN, CHUNK_BYTES_MAX = 64, 1_048_576
"""As the protocol has it."""
_BATCH = 32
"""Pieces that are embedded together."""
_SEPARATOR = "//"
"""Between a file's name and a piece's number: in no name are there two of them together."""


class Known(NamedTuple):
    """A file as it was loaded: it is the same as long as these are."""

    size_bytes: int
    modified_ns: int
    chunk_bytes: int

    @property
    def tag(self) -> str:
        """The tag of its first piece that says so."""
        return _AS + ":".join(map(str, self))


class _File(NamedTuple):
    name: str
    path: Path
    size_bytes: int
    modified_ns: int


class FolderLoader:
    """Loads folders below one root, which the operator names."""

    def __init__(self, root: Path | None, embed: Embed | None) -> None:
        self._root = root
        self._embed = embed

    def load(
        self,
        store: Store,
        request: FolderRequest,
        token: CancelToken,
        report: Callable[[int, int], None],
    ) -> LoadedFolder:
        """Load a folder: what is new or changed is read, what is gone is deleted. Progress is in bytes of files.

        What was done when the token ends it stays, and is not done again by the next call.

        Raises:
            UnsupportedError: no root is named.
            InvalidRequestError: the folder is none below it.
        """
        if not isinstance(store, DocumentStore):
            raise TypeError(store)
        if not CHUNK_BYTES_MIN <= request.chunk_bytes <= CHUNK_BYTES_MAX:
            message = f"it is from {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX}, not {request.chunk_bytes}"
            raise InvalidRequestError.at("data.chunk_bytes", message)
        root, top = self._folder(request.folder)
        known = _known(store, _named(root, top))
        _repair(store, _named(root, top))
        refused: list[tuple[str, str]] = []
        files = list(_files(root, top, request.extensions, request.excludes, refused))
        total, done, loaded, unchanged = sum(each.size_bytes for each in files), 0, 0, 0
        for file in files:
            token.check()
            now = Known(file.size_bytes, file.modified_ns, request.chunk_bytes)
            before = known.pop(file.name, None)
            if before == now.tag:
                unchanged += 1
            else:
                why = self._load_file(store, file, now, token, again=before is not None)
                if why is None:
                    loaded += 1
                else:
                    refused.append((file.name, why))
            done += file.size_bytes
            report(done, total)
        # What could not be looked at is not gone: its disk, or share, may be away.
        unread = tuple(f"{name}/" for name, _ in refused)
        gone = [name for name in known if not f"{name}/".startswith(unread)]
        for name in gone:
            store.delete(Choice(prefix=name + _SEPARATOR))
        return LoadedFolder(loaded, unchanged, len(gone), tuple(refused[:REFUSED_MAX]))

    def _folder(self, folder: str) -> tuple[Path, Path]:
        """Return the root, and a folder below it."""
        if self._root is None:
            raise UnsupportedError("no folder may be read: start the worker with --documents-root FOLDER")
        root = self._root.resolve()
        try:
            found = resolved(root / folder)
        except (OSError, ValueError):  # links that go round, a character that no path can have
            found = None
        if found is not None and not found.is_relative_to(root):
            raise InvalidRequestError.at(
                "data.folder", f"{folder!r} leads out of the folder that may be read"
            )
        if found is None or not os.path.isdir(found):  # noqa: PTH112 - Path.is_dir raises for a name too long
            raise InvalidRequestError.at(
                "data.folder", f"there is no folder {folder!r} below the one that may be read"
            )
        return root, found

    def _load_file(
        self, store: DocumentStore, file: _File, now: Known, token: CancelToken, *, again: bool
    ) -> str | None:
        """Load a file in place of what it was. Returns why not: nothing of it is there then, or what was, if it can't be read."""
        try:
            text, why = _text_of(file)
        except OSError as error:
            return said_of(error, "read")
        if again:  # else there is none to be found, for which all keys would be looked at
            store.delete(Choice(prefix=file.name + _SEPARATOR))
        if why is not None:
            return why
        chunks = list(pieces(text, now.chunk_bytes)) or [""]
        items = [_item(file.name, index, each, now) for index, each in enumerate(chunks)]
        # The first piece is put last: it says that the file is whole.
        items = [*items[1:], items[0]]
        try:
            for start in range(0, len(items), _BATCH):
                token.check()
                why = store.put_all(items[start : start + _BATCH], self._embed, token)
                if why is not None:
                    store.delete(Choice(prefix=file.name + _SEPARATOR))
                    return why
        except BaseException:
            store.delete(Choice(prefix=file.name + _SEPARATOR))
            raise
        return None


def _text_of(file: _File) -> tuple[str, str | None]:
    """Return a file's text, and why it has none. OSError where it can't be read."""
    if file.size_bytes > FILE_BYTES_MAX:
        return "", f"it has {file.size_bytes} bytes; at most {FILE_BYTES_MAX} are read"
    try:
        text = file.path.read_text("utf-8")
    except UnicodeDecodeError:
        return "", "it is no text in UTF-8"
    return text, "it is no text: it has a byte 0" if "\0" in text else None


def _named(root: Path, path: Path) -> str:
    """Return what a path below the root is called; nothing for the root itself."""
    found = path.relative_to(root).as_posix()
    return "" if found == "." else found


def pieces(text: str, chunk_bytes: int) -> Iterator[str]:
    """Cut a text into pieces of at most so many bytes in UTF-8, between paragraphs, lines or words where that can be."""
    data, start = text.encode(), 0
    while start < len(data):
        end = min(start + chunk_bytes, len(data))
        if end < len(data):
            end = _cut(data, start, end)
        piece = data[start:end].decode()
        if piece.strip():
            yield piece
        start = end


def _cut(data: bytes, start: int, end: int) -> int:
    """Return where to end a piece: behind the last paragraph, line or word of its second half, else between letters."""
    middle = start + (end - start) // 2
    for mark in (b"\n\n", b"\n", b" "):
        at = data.rfind(mark, middle, end)
        if at >= 0:
            return at + len(mark)
    while data[end] & 0xC0 == 0x80:  # noqa: PLR2004 - the inside of a letter in UTF-8
        end -= 1
    return end


def _item(name: str, index: int, text: str, now: Known) -> Item:
    said = orjson.dumps({"path": name, "chunk": index, "text": text})
    tags = (now.tag,) if index == 0 else ()
    return Item(f"{name}{_SEPARATOR}{index}", Content(said), tags=tags)


def _known(store: DocumentStore, folder: str) -> dict[str, str]:
    """Return the files of a folder that were loaded, and how they were. Keys of the caller's own are none."""
    found: dict[str, str] = {}
    for key, tags in store.ending(f"{_SEPARATOR}0"):
        tag = next((each for each in tags if each.startswith(_AS)), None)
        if tag is not None and (not folder or key.startswith(f"{folder}/")):
            found[key.removesuffix(f"{_SEPARATOR}0")] = tag
    return found


def _repair(store: DocumentStore, folder: str) -> None:
    """Delete the pieces of files of a folder whose first piece is not there: the process ended while they were loaded."""
    for key in store.orphans(_SEPARATOR):
        if not folder or key.startswith(f"{folder}/"):
            store.delete(Choice(key=key))


def _files(
    root: Path, top: Path, extensions: Sequence[str], excludes: Sequence[str], refused: list[tuple[str, str]]
) -> Iterator[_File]:
    """Return a folder's files by their names below the root, sorted, but hidden ones; what can't be is told in ``refused``."""
    wanted = {each if each.startswith(".") else f".{each}" for each in extensions}

    def unread(error: OSError) -> None:
        refused.append((printable(_named(root, Path(error.filename))), said_of(error, "read")))

    for folder, below, names in os.walk(top, onerror=unread):
        inside = PurePosixPath(Path(folder).relative_to(top).as_posix())
        below[:] = sorted(each for each in below if not _excluded(inside / each, excludes))
        for each in sorted(names):
            if (wanted and Path(each).suffix not in wanted) or _excluded(inside / each, excludes):
                continue
            path = Path(folder) / each
            name = _named(root, path)
            try:
                name.encode()
                status = path.stat()
                if not path.resolve(strict=True).is_relative_to(top):
                    refused.append((name, "it is a link that leads out of the folder"))
                    continue
            except UnicodeEncodeError:
                refused.append((printable(name), "its name is no text in UTF-8"))
                continue
            except OSError as error:
                refused.append((name, said_of(error, "read")))
                continue
            if not path.is_file():
                refused.append((name, "it is no file"))
                continue
            yield _File(name, path, status.st_size, status.st_mtime_ns)


def _excluded(path: PurePosixPath, excludes: Sequence[str]) -> bool:
    return path.name.startswith(".") or any(
        fnmatch(path.name, each) or fnmatch(str(path), each) for each in excludes
    )
