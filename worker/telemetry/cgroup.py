"""The memory limit of the control groups that this process is in, versions 1 and 2."""

from pathlib import Path
from typing import Self

from protocol.record import Record

_NO_LIMIT = 2**60
"""Version 1 says "none" with a number near 2**63, rounded to pages."""


class _Version(Record):
    limit: str
    usage: str
    reclaimable: str
    """The line of memory.stat whose bytes the kernel drops before it refuses anything."""


_V1 = _Version("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Version("memory.max", "memory.current", "inactive_file")


class CgroupMemory:
    """The group and its ancestors: the tightest of them binds."""

    def __init__(self, version: _Version, folders: tuple[Path, ...]) -> None:
        self._version = version
        self._folders = folders

    @classmethod
    def of_this_process(cls, root: Path = Path("/")) -> Self | None:
        """Find this process's groups below ``root``'s /proc and mounts. None if it is in none."""
        for version, controller in ((_V1, "memory"), (_V2, "")):
            folders = group_folders(controller, root)
            folders = tuple(folder for folder in folders if (folder / version.limit).is_file())
            if folders:
                return cls(version, folders)
        return None

    def read(self) -> tuple[int | None, int | None]:
        """Return the smallest limit and the smallest room left, each None where no group has a limit."""
        limits, rooms = [], []
        for folder in self._folders:
            limit = _number(folder / self._version.limit)
            usage = _number(folder / self._version.usage)
            if limit is None or usage is None or limit >= _NO_LIMIT:
                continue
            limits.append(limit)
            rooms.append(max(0, limit - usage + self._reclaimable(folder)))
        return min(limits, default=None), min(rooms, default=None)

    def _reclaimable(self, folder: Path) -> int:
        try:
            lines = (folder / "memory.stat").read_text().splitlines()
        except OSError:
            return 0
        wanted = self._version.reclaimable
        return next((int(value) for name, value in map(str.split, lines) if name == wanted), 0)


def group_folders(controller: str, root: Path = Path("/")) -> tuple[Path, ...]:
    """Return the folders of this process's group and its ancestors; ``""`` is version 2."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ()
    group, mount = _group_path(groups, controller), _mount(mounts, controller)
    if group is None or mount is None:
        return ()
    mount_root, mount_point = mount
    return _folders(root / mount_point.lstrip("/"), mount_root, group)


def _group_path(lines: list[str], controller: str) -> str | None:
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return None


def _mount(lines: list[str], controller: str) -> tuple[str, str] | None:
    """Return (root within the hierarchy, mount point): proc_pid_mountinfo(5), fields 4 and 5."""
    for line in lines:
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        fields = before.split(" ")
        if (controller and kind == "cgroup" and controller in options.split(",")) or (
            not controller and kind == "cgroup2"
        ):
            return fields[3], fields[4]
    return None


def _folders(mount_point: Path, mount_root: str, group: str) -> tuple[Path, ...]:
    relative = group.removeprefix(mount_root.rstrip("/")).strip("/")
    parts = [part for part in relative.split("/") if part and part != ".."]
    return tuple(mount_point.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
