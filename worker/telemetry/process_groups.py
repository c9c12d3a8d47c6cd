"""The control groups that this process is in, as they are now: a supervisor may move it at any time."""

import os
from functools import partial
from pathlib import Path

from worker.core.shortages import with_reserve
from worker.telemetry.mounts import Mount, mountinfo, mounts_in

_MOST_BYTES = 2**14


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
        """Tell whether its group under the first of these that has one can't be looked at: it is not mounted here."""
        groups = text_of(self._own).split("\n")
        named = next((each for each in controllers if _group_path(groups, each) is not None), None)
        return named is not None and not any(each.is_dir() for each in self.folders(named))

    def _look_up(self, controller: str, groups: list[str]) -> tuple[Path, ...]:
        group = _group_path(groups, controller)
        mounts = [each for each in mounts_in(mountinfo(self._root)) if _has(each, controller)]
        if group is None or not mounts:
            return ()
        # There may be others, of another container's groups or of the machine's, before the one that has this one's.
        mount = next((each for each in mounts if _holds(each.root, group)), mounts[0])
        return _folders(self._root / mount.point.lstrip("/"), mount.root, group)


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


def _folders(mount_point: Path, mount_root: str, group: str) -> tuple[Path, ...]:
    relative = group.removeprefix(mount_root.rstrip("/")).strip("/")
    parts = [part for part in relative.split("/") if part and part != ".."]
    return tuple(mount_point.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))
