"""Where a model's file is: on this machine, on a share, or nowhere."""

from pathlib import Path

import pytest

from protocol.vocabulary import FileLocation
from worker.core.models import ModelSpec
from worker.loaders import file_location
from worker.loaders.file_location import location_of

MOUNTS = r"""22 1 8:1 / {here} rw - ext4 /dev/sda1 rw
30 22 0:50 / {here}/nfs rw,relatime shared:1 - nfs4 server:/models rw,vers=4.2
31 30 8:2 / {here}/nfs/scratch rw - xfs /dev/sdb1 rw
32 22 0:51 / {here}/s3 rw master:2 - fuse.s3fs s3fs rw
33 22 0:52 / {here}/with\040blank rw - cifs //server/share rw
35 22 0:54 / {here}/模型\040disk rw - cifs //server/disk rw
34 22 0:53 / {here}/layers rw - fuse.fuse-overlayfs overlay rw
"""


def spec(root: Path, path: str | None) -> ModelSpec:
    return ModelSpec("m", "safetensors", None if path is None else Path(path), root)


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("m.bin", FileLocation.LOCAL),
        ("nfs/m.bin", FileLocation.SHARED),
        ("nfs/scratch/m.bin", FileLocation.LOCAL),
        ("nfs-copy/m.bin", FileLocation.LOCAL),
        ("s3/m.bin", FileLocation.SHARED),
        ("with blank/m.bin", FileLocation.SHARED),
        ("模型 disk/m.bin", FileLocation.SHARED),
        ("layers/m.bin", FileLocation.LOCAL),
    ],
)
def test_it_is_by_the_file_system_that_the_path_is_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, location: FileLocation
) -> None:
    """Of mounts in one another the innermost counts; a folder that only begins with the same letters is another."""
    monkeypatch.setattr(file_location, "mountinfo", lambda: MOUNTS.replace("{here}", str(tmp_path.resolve())))
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).touch()
    assert location_of(spec(tmp_path, path)) is location


def test_what_is_not_there_is_absent_and_what_has_no_file_is_nowhere(tmp_path: Path) -> None:
    """A path that leads out of the root is refused elsewhere: it says nothing."""
    assert location_of(spec(tmp_path, "m.bin")) is FileLocation.ABSENT
    assert location_of(spec(tmp_path, None)) is None
    assert location_of(spec(tmp_path, "../m.bin")) is None


def test_a_link_is_where_it_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_location, "mountinfo", lambda: MOUNTS.replace("{here}", str(tmp_path.resolve())))
    (tmp_path / "nfs").mkdir()
    (tmp_path / "nfs" / "m.bin").touch()
    (tmp_path / "m.bin").symlink_to(tmp_path / "nfs" / "m.bin")
    assert location_of(spec(tmp_path, "m.bin")) is FileLocation.SHARED
