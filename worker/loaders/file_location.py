"""Whether a model's file is on this machine: what is on a share is read over a link, and other machines may see it too."""

import ctypes
import os
import sys
from pathlib import Path

from protocol.vocabulary import FileLocation
from worker.core.models import ModelSpec
from worker.loaders.model_path import confined
from worker.telemetry.mounts import Mount, mountinfo, mounts_in

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
    mounts = tuple(mounts_in(mountinfo()))
    return FileLocation.SHARED if any(_is_remote(each, mounts) for each in real) else FileLocation.LOCAL


def _is_remote(path: Path, mounts: tuple[Mount, ...]) -> bool:
    if sys.platform == "win32":
        return (
            path.drive.startswith("\\\\")
            or ctypes.windll.kernel32.GetDriveTypeW(path.anchor) == _DRIVE_REMOTE
        )
    kind, _, rest = _file_system(path, mounts).partition(".")
    return kind in _REMOTE or (kind == "fuse" and rest in _REMOTE_FUSE)


def _file_system(path: Path, mounts: tuple[Mount, ...]) -> str:
    """Return what kind of file system a path is on; empty where that is not known."""
    longest, kind = -1, ""
    for each in mounts:
        if len(each.point) >= longest and path.is_relative_to(each.point):
            longest, kind = len(each.point), each.kind
    return kind
