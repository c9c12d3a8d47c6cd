"""The control groups that this process is in, as they are now: a supervisor may move it at any time."""

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from worker.core.shortages import with_reserve
from worker.telemetry.mounts import Mount, mountinfo, mounts_in

_MOST_BYTES = 2**14
_MOST_FOLDERS = 4096
"""Of one level of a tree of groups, where this process's own has to be looked for: more than a machine full of containers has."""


def text_of(path: str | Path) -> str:
    """Return what a file of the kernel's says; empty where it can't be read. A fifth of what ``read_text`` costs."""
    try:
        return with_reserve(partial(_read, path))
    except OSError:
        return ""


def _read(path: str | Path) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, _MOST_BYTES).decode(errors="surrogateescape")
    finally:
        os.close(descriptor)


class ProcessGroups:
    """Finds their folders below ``root``'s /proc and mounts. One small file is read each time, the mounts after a move."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._own = str(root / "proc/self/cgroup")
        # All mutable state: the kernel's word when it was last looked up, and what came of it.
        self._groups: str | None = None
        self._found: dict[str, tuple[Path, ...]] = {}

    def folders(self, controller: str) -> tuple[Path, ...]:
        """Return the folders of this process's group and its ancestors, its own first; ``""`` is version 2."""
        groups = text_of(self._own)
        if groups != self._groups:
            self._groups, self._found = groups, {}
        if controller not in self._found:
            self._found[controller] = self._look_up(controller, groups.split("\n"))
        return self._found[controller]

    def is_hidden(self, *controllers: str) -> bool:
        """Tell whether its group under the first of these that has one can't be looked at: it is not mounted here, or not found."""
        groups = text_of(self._own).split("\n")
        named = next((each for each in controllers if _group_path(groups, each) is not None), None)
        return named is not None and not any(each.is_dir() for each in self.folders(named))

    def _look_up(self, controller: str, groups: list[str]) -> tuple[Path, ...]:
        group = _group_path(groups, controller)
        if group is None:
            return ()
        mounts = [
            (self._root / each.point.lstrip("/"), each.root)
            for each in mounts_in(mountinfo(self._root))
            if _has(each, controller)
        ]
        # There may be others, of another container's groups or of the machine's, before the one that has this one's.
        for point, root in mounts:
            if _holds(root, group):
                return _folders(point, group.removeprefix(root.rstrip("/")))
        for point, root in mounts:
            if (found := _searched(point, root, group)) is not None:
                return _folders(point, found)
        return ()


def _group_path(lines: list[str], controller: str) -> str | None:
    for line in lines:
        _, _, named = line.partition(":")
        controllers, _, path = named.partition(":")
        if path and controller in controllers.split(","):
            return path
    return None


def _has(mount: Mount, controller: str) -> bool:
    return mount.kind == "cgroup" and controller in mount.options if controller else mount.kind == "cgroup2"


def _holds(mount_root: str, group: str) -> bool:
    return f"{group.rstrip('/')}/".startswith(f"{mount_root.rstrip('/')}/")


def _searched(point: Path, root: str, group: str) -> str | None:
    """Return where this process's group is below a mount of the machine's; None where it is not found there.

    Where the process has a namespace of groups and no mount of its own, the machine's is one from some levels above the
    namespace's root (/../..), and names of none of these: it is the group that lists this process.
    """
    above, wanted = root.strip("/").split("/"), group.strip("/").split("/")
    levels = len(above) - wanted.count("..")
    if set(above) != {".."} or levels < 0:
        return None
    folders = [point]
    for _ in range(levels):
        folders = [below for each in folders for below in _folders_in(each)][:_MOST_FOLDERS]
    inner = [part for part in wanted if part != ".."]
    own = (each.joinpath(*inner) for each in folders)
    return next((str(each.relative_to(point)) for each in own if _lists(each, os.getpid())), None)


def _folders_in(folder: Path) -> list[Path]:
    with suppress(OSError), os.scandir(folder) as found:
        return [folder / each.name for each in found if each.is_dir(follow_symlinks=False)]
    return []


def _lists(folder: Path, pid: int) -> bool:
    """Tell whether a process is in a group; not where the group can't be asked."""
    with suppress(OSError):
        return str(pid) in (folder / "cgroup.procs").read_text().split()
    return False


def _folders(mount_point: Path, relative: str) -> tuple[Path, ...]:
    """Return a group's folder below a mount, and those of its ancestors there."""
    parts = [part for part in relative.split("/") if part and part != ".."]
    return tuple(mount_point.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))
