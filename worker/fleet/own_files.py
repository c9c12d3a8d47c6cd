"""Files that workers write for watchers: each node of one machine has its own, as no two workers can keep one file."""

from pathlib import PurePath

_WRITTEN = ("--record", "--metrics-file")


def with_own_files(options: tuple[str, ...], node: str) -> tuple[str, ...]:
    """Return a worker's options, with the node's name in the files that it writes: ``run.jsonl`` becomes ``run.node-2.jsonl``."""
    own, named = list[str](), False
    for each in options:
        option, equals, path = each.partition("=")
        if named:
            own.append(_of(each, node))
        elif equals and option in _WRITTEN:
            own.append(f"{option}={_of(path, node)}")
        else:
            own.append(each)
        named = not named and each in _WRITTEN
    return tuple(own)


def _of(path: str, node: str) -> str:
    named = PurePath(path)
    return str(named.with_name(f"{named.stem}.{node}{named.suffix}")) if named.name else path
