"""Whether a model's file is on this machine: what is on a share is read over a link, and other machines may see it too."""

import ctypes
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from protocol.vocabulary import FileLocation
from worker.core.models import ModelSpec
from worker.loaders.model_path import confined

_REMOTE = frozenset({
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "gfs", "gfs2", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2",
    "panfs", "smb2", "smb3", "smbfs", "vboxsf", "vxfs",
})  # fmt: skip
"""File systems over a link: those that coreutils' ``stat`` marks as remote, by the names that /proc/self/mountinfo has."""
_REMOTE_FUSE = frozenset({
    "ceph", "gcsfuse", "glusterfs", "goofys", "juicefs", "mfs", "mountpoint-s3", "nfs", "rclone", "s3fs", "seaweedfs", "sshfs",
})  # fmt: skip
"""Likewise, of those in user space, by what comes after ``fuse.``."""
_DRIVE_REMOTE = 4
"""Of Windows' GetDriveType."""
_MOUNT = re.compile(r"^(?:[^ \n]+ ){4}([^ \n]+) .*? - ([^ \n]+)", re.MULTILINE)
"""A line of mountinfo: the mount point, and the kind of file system."""
_ESCAPED = re.compile(r"\\([0-7]{3})")
"""A blank, a tab, a newline, a backslash or a hash in one; all else is as it is."""


def location_of(spec: ModelSpec) -> FileLocation | None:
    """Look where a model's files are; None for one that has none. Waits for storage that does not answer."""
    paths = (*filter(None, (spec.path,)), *spec.more_paths)
    if not paths or spec.model_root is None:
        return None
    try:
        real = [confined(each, spec.model_root) for each in paths]
    except ValueError:  # it is refused, and said why
        return None
    if not all(map(os.path.exists, real)):
        return FileLocation.ABSENT
    mountinfo = _mounts()
    return FileLocation.SHARED if any(_is_remote(each, mountinfo) for each in real) else FileLocation.LOCAL


def _is_remote(path: Path, mountinfo: str) -> bool:
    if sys.platform == "win32":
        return (
            path.drive.startswith("\\\\")
            or ctypes.windll.kernel32.GetDriveTypeW(path.anchor) == _DRIVE_REMOTE
        )
    kind, _, rest = _file_system(path, mountinfo).partition(".")
    return kind in _REMOTE or (kind == "fuse" and rest in _REMOTE_FUSE)


def _mounts() -> str:
    with suppress(OSError):
        return os.fsdecode(Path("/proc/self/mountinfo").read_bytes())
    return ""


def _file_system(path: Path, mountinfo: str) -> str:
    """Return what kind of file system a path is on, by proc_pid_mountinfo(5); empty where that is not known."""
    longest, kind = -1, ""
    for found in _MOUNT.finditer(mountinfo):
        point = _ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), found[1])
        if len(point) >= longest and path.is_relative_to(point):
            longest, kind = len(point), found[2]
    return kind
