"""What a file is, by its contents: a suffix is only what somebody called it. And what to do about one that is no model."""

import codecs
import re
from collections.abc import Iterable, Iterator

from worker.loaders.base import FormatError
from worker.loaders.positional_file import PositionalFile

HEAD_BYTES = 4096
_WEB_PAGE = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
ZIP, PICKLES = b"PK\3\4", (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_ARCHIVES = (
    (b"\x1f\x8b", "a gzip archive"), (b"BZh", "a bzip2 archive"), (b"\xfd7zXZ\0", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"), (b"Rar!\x1a\x07", "a RAR archive"), (b"\x28\xb5\x2f\xfd", "a zstd archive"),
)  # fmt: skip
_OTHERS = (
    (0, b"\x89HDF\r\n", "an HDF5 file, as Keras writes it"), (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"\x93NUMPY", "an array of numpy's"), (0, b"%PDF", "a PDF document"), (0, b"\x7fELF", "a program"),
    *((0, mark, "a model in a format before GGUF") for mark in (b"lmgg", b"fmgg", b"tjgg", b"algg")),
)  # fmt: skip
_TEXT, _QUOTED_CHARACTERS = re.compile(r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]{9,}"), 40
_MARKS = (("utf-8", codecs.BOM_UTF8), ("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE))
_LFS = re.compile(rb"version https?://(git-lfs|hawser)\.github\.com/spec")
_ANNEX = re.compile(rb"(\.\./)*(\.git)?/annex/objects/")
_TAR_MARK_AT = 257
_MAX_HEADER_BYTES = 100_000_000
_MARK_BYTES = 8
"""What tells of which format a file is takes more, of some."""
_ONNX = re.compile(rb"\x08[\x01-\x20]([\x12\x1a\x22\x2a\x32\x3a\x42]|$)")
"""A ModelProto begins with its ir_version, and goes on with a name or the graph."""


def loader_for(head: bytes) -> str | None:
    """Return which loader a file is for; None where its contents say nothing of that."""
    if head.startswith(b"GGUF"):
        return "gguf"
    if head.startswith((ZIP, *PICKLES)):
        return "torch"
    length = int.from_bytes(head[:8], "little")
    if 0 < length <= _MAX_HEADER_BYTES and head[8:9] == b"{":
        return "safetensors"
    if _ONNX.match(head):
        return "onnx"
    return None


def unknown(size_bytes: int, loaders: Iterable[str]) -> str:
    """Say what to do about a file of which nothing is known."""
    if size_bytes <= _MARK_BYTES:
        return f"it is cut short: it has {size_bytes} bytes; download it again"
    return f"its contents are none that a loader knows: correct its path, or name its loader: {', '.join(loaders)}"


def not_a_model(head: bytes, size_bytes: int) -> str | None:
    """Say what a file is that no loader reads, and what to do; None where nothing is known against it."""
    return next((what for applies, what in _telling(head, size_bytes) if applies), None)


def _telling(head: bytes, size_bytes: int) -> Iterator[tuple[bool, str]]:
    text = _text_of(head)
    start = head.lstrip() if text is None else text.encode().lstrip()
    yield size_bytes == 0, "it is empty; its download never began, or failed; download it again"
    yield (
        _LFS.match(start) is not None,
        "it is a Git LFS pointer, not the file that it stands for; run 'git lfs pull', or download the file itself",
    )
    yield (
        _ANNEX.match(start) is not None,
        "it is a pointer of git-annex, not the file that it stands for; run 'git annex get' for it, or download the file itself",
    )
    yield (
        start.startswith(b"# xet version"),
        "it is a Xet pointer, not the file that it stands for; download the file itself, by git-xet or the hub's own client",
    )
    yield (
        _WEB_PAGE.match(start) is not None,
        "it is a web page (HTML), not a model; its address was a page's, or wants a login; download the file itself",
    )
    yield (
        start.startswith((b"<?xml", b"<Error>")),
        "it is an XML text, which a server sends for an error; download the file again",
    )
    yield (
        len(head) == HEAD_BYTES and not head.strip(b"\0"),
        f"its first {len(head)} bytes are zeros; it was reserved, and not downloaded yet; download it again",
    )
    yield (
        text is not None and _TEXT.fullmatch(text) is not None,
        (
            f"it is text, not a model, and begins {(text or '')[:_QUOTED_CHARACTERS]!r}; a server sends such"
            " for an error, and some models' settings are such; download the model's file itself"
        ),
    )
    for mark, name in _ARCHIVES:
        yield head.startswith(mark), f"it is {name}; unpack it, and declare the model in it"
    is_tar = head[_TAR_MARK_AT : _TAR_MARK_AT + 5] == b"ustar"
    yield is_tar, "it is a tar archive; unpack it, and declare the model in it"
    for at, mark, name in _OTHERS:
        what = f"it is {name}, which no loader here reads; convert it, to safetensors best"
        yield head[at : at + len(mark)] == mark, what


def _text_of(head: bytes) -> str | None:
    """Return the file's beginning as text, without its byte order mark; None where it is none."""
    encoding, mark = next((each for each in _MARKS if head.startswith(each[1])), ("utf-8", b""))
    try:  # a head may end inside a character
        return codecs.getincrementaldecoder(encoding)().decode(head[len(mark) :])
    except UnicodeDecodeError:
        return None


def head_of(file: PositionalFile) -> bytes:
    """Read a file's first bytes. OSError as the system gives it."""
    head = bytearray(min(HEAD_BYTES, file.size_bytes))
    return bytes(head[: file.read_into(0, memoryview(head))])


def check_kind(declared: str, head: bytes, size_bytes: int) -> None:
    """Refuse what can't be what its loader reads, in words that tell what it is. FormatError."""
    foreign = not_a_model(head, size_bytes)
    if foreign is not None:
        raise FormatError(foreign, "")
    found = loader_for(head)
    if found != declared and head.startswith(ZIP):
        text = f"it is no {declared} file, but a zip archive"
        raise FormatError(
            text, "declare no loader if torch wrote it; else unpack it, and declare the model in it"
        )
    if found not in {None, declared}:
        text = f"it is no {declared} file: by its contents it is for the loader {found}"
        raise FormatError(text, "declare that one, or none")
