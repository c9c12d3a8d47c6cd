"""YAML that remembers its lines, so that a complaint about a value can say where it stands.

Plain values only (yaml's safe loader): no tag makes an object. A key is the text that it is written as, whatever YAML
takes ``off``, ``1.5`` or a date for. A key that appears twice is refused.
"""

import os
import re
import select
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from worker.core.paths import said_of

_MAX_BYTES = 2**20
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_SILENCE_SECONDS = 5.0
"""How long the writer of a pipe may take for its next part."""
_MAX_VALUES = 200_000
"""What there can be without aliases in so many bytes, and as much again."""
_MAX_NUMBER_CHARACTERS = 64
_NUMBERS = frozenset(("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"))
_TEXT, _NULL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"
_READ_AS_MORE = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("bool", "float", "int", "null", "timestamp")
)
"""What YAML takes plain text for."""
_SHOWN_CHARACTERS = 80
_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
_TWO_HALVES = re.compile("[\ud800-\udbff][\udc00-\udfff]")
"""As JSON escapes what is beyond 16 bits, which is what many programs write files of models as."""


class YamlError(ValueError):
    """The text is not such YAML. ``line`` counts from 1; None where there is none to name."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    """Takes keys as they are written, and says where a value stands that is not what its tag, or its looks, say."""

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        node.tag = _TEXT if node.tag == "tag:yaml.org,2002:value" else node.tag  # =, which nothing reads
        node.value = _TWO_HALVES.sub(_whole, node.value)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        node.value = [(_as_written(key), value) for key, value in node.value]
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - as it is in yaml
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            # 2024-13-45 looks like a date; after a tag yaml takes any text apart as if it were one.
            if isinstance(error, YamlError):
                raise
            kind, text = node.tag.rpartition(":")[2], str(node.value)[:_SHOWN_CHARACTERS]
            raise YamlError(f"{text!r} is no {kind}", node.start_mark.line + 1) from error


def _whole(halves: re.Match[str]) -> str:
    return halves[0].encode("utf-16", "surrogatepass").decode("utf-16")


class MarkedYaml:
    """A document: its ``value``, and the line of each place in it."""

    def __init__(self, path: Path) -> None:
        text = _read(path)
        try:
            loader = _Loader(text)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise YamlError(f"character {error.character:#x} is not allowed", line) from error
        try:
            node = loader.get_single_node()
            if node is None:
                raise YamlError("it is empty", 1)
            _refuse_what_grows(node, {}, [])
            _refuse_duplicates(node, set())
            self.value: Any = loader.construct_document(node)
            self._root: yaml.Node = node
            # Mutable: keys and values of the mappings that were looked into, by node.
            self._pairs: dict[int, dict[Any, tuple[yaml.ScalarNode, yaml.Node]]] = {}
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            text = ": ".join(part for part in (error.context, error.problem) if part)
            raise YamlError(text, None if mark is None else mark.line + 1) from error
        except yaml.YAMLError as error:
            raise YamlError(" ".join(str(error).split())) from error
        except RecursionError:
            raise YamlError("it nests too deep") from None
        finally:
            loader.dispose()

    def line(self, *place: str | int) -> int:
        """Return the line of a key or an item; of what it would be in, where it is not there."""
        *_, (mark, _node) = self._way(place)
        return mark.line + 1

    def written(self, *place: str | int) -> str | list[str] | None:
        """Return the text that a value was written as, or a list of such; None for null, for others, for none."""
        way = list(self._way(place))
        return _text_of(way[-1][1]) if len(way) == len(place) + 1 else None

    def _way(self, place: tuple[str | int, ...]) -> Iterator[tuple[yaml.Mark, yaml.Node]]:
        """Yield the root and each step from it on as far as there are any: where it begins, and its value."""
        node = self._root
        yield node.start_mark, node
        for step in place:
            if isinstance(node, yaml.MappingNode):
                pair = self._pairs_of(node).get(step)
                if pair is None:
                    return
                key, node = pair
                yield key.start_mark, node
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                yield node.start_mark, node
            else:
                return

    def _pairs_of(self, node: yaml.MappingNode) -> dict[Any, tuple[yaml.ScalarNode, yaml.Node]]:
        """Return its keys and values by key, worked out once: there may be thousands, and each is asked for."""
        found = self._pairs.get(id(node))
        if found is None:
            found = {key.value: (key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)}
            self._pairs[id(node)] = found
        return found


def _as_written(key: Any) -> Any:
    """Return a key as text; ``<<``, which merges, stays what it is, and so does what is no single value."""
    if key.tag not in _READ_AS_MORE:
        return key
    return yaml.ScalarNode(_TEXT, key.value, key.start_mark, key.end_mark, key.style)


def _text_of(node: yaml.Node) -> str | list[str] | None:
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == _NULL else str(node.value)
    if isinstance(node, yaml.SequenceNode):
        texts = [_text_of(each) for each in node.value]
        return (
            [each for each in texts if isinstance(each, str)]
            if all(isinstance(each, str) for each in texts)
            else None
        )
    return None


def _read(path: Path) -> str:
    try:
        text = _bytes_of(path)
        if len(text) > _MAX_BYTES:
            raise YamlError(f"it is longer than {_MAX_BYTES} bytes")
        return text.decode("utf-8-sig")
    except OSError as error:
        raise YamlError(said_of(error)) from error
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        raise YamlError(f"it is not UTF-8: byte {text[error.start]:#04x}; save it as that", line) from error


def _bytes_of(path: Path) -> bytes:
    """Read a file, or what comes through a pipe, as of a shell's ``<(...)``; one that brings nothing is not waited for. OSError."""
    descriptor = os.open(path, _OPEN_FLAGS)
    try:
        found = bytearray()
        while len(found) <= _MAX_BYTES:
            try:
                part = os.read(descriptor, _MAX_BYTES + 1 - len(found))
            except BlockingIOError:
                if not select.select((descriptor,), (), (), _SILENCE_SECONDS)[0]:
                    raise YamlError("it is a pipe whose writer writes nothing: name a file") from None
                continue
            if not part:
                break
            found += part
        if not found and stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            raise YamlError("it is a pipe, and nobody wrote into it: name a file")
        return bytes(found)
    finally:
        os.close(descriptor)


def _refuse_what_grows(node: yaml.Node, sizes: dict[int, int], above: list[int]) -> int:
    """Return how many values a node stands for, aliases counted each time. YamlError if they are too many."""
    line = node.start_mark.line + 1
    if id(node) in above:
        raise YamlError("an alias stands for what it is in", line)
    if id(node) in sizes:
        return sizes[id(node)]
    above.append(id(node))
    count = 1
    if isinstance(node, yaml.ScalarNode):
        if node.tag in _NUMBERS and len(node.value) > _MAX_NUMBER_CHARACTERS:
            raise YamlError(f"a number of more than {_MAX_NUMBER_CHARACTERS} characters", line)
        half = _HALF_A_CHARACTER.search(node.value)
        if half is not None:  # no reply could hold it
            code = ord(half[0])
            raise YamlError(
                f"\\u{code:04x} is half of a character; write the whole one, as itself or \\U…", line
            )
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            count += _refuse_what_grows(key, sizes, above) + _refuse_what_grows(value, sizes, above)
    else:
        count += sum(_refuse_what_grows(each, sizes, above) for each in node.value)
    above.pop()
    if count > _MAX_VALUES:
        raise YamlError(f"its aliases stand for more than {_MAX_VALUES} values", line)
    sizes[id(node)] = count
    return count


def _refuse_duplicates(node: yaml.Node, seen: set[int]) -> None:
    """Walk the tree. A node that an alias brings back is walked once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _refuse_duplicates(each, seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            name = (key.tag, str(key.value))
            line = key.start_mark.line + 1
            if name in lines:
                raise YamlError(f"key {key.value!r} is there twice, first in line {lines[name]}", line)
            lines[name] = line
            _refuse_duplicates(value, seen)
