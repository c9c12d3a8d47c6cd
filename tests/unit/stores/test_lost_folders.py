"""A store's folder that goes away, or takes no writes, while it is used: it is said, nothing is lost, and it goes on once that is over."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.vocabulary import StoreKind
from tests.rigs.small_filesystem import make_read_only, small_filesystem
from tests.unit.stores.stores import HERE, World, item
from worker.core.errors import WorkerError
from worker.plugins import OutOfMemoryError, UnsupportedError
from worker.stores.base import Options

MIB = 2**20
GONE = "is not there any more: it was removed or moved, or its disk unmounted; put it back"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="what is in use there can't be moved")


def refused(do: Callable[[], object], kind: type[WorkerError] = OutOfMemoryError) -> str:
    with pytest.raises(kind) as caught:
        do()
    return caught.value.message


@POSIX
def test_nothing_is_written_where_the_folder_is_gone(tmp_path: Path) -> None:
    """SQLite goes on with a file that nobody finds again: what was answered would be gone after a restart."""
    folder, elsewhere = tmp_path / "stores", tmp_path / "elsewhere"
    world = World(folder)
    cache = world.cache(persist=True)
    cache.put(item("a"))
    folder.rename(elsewhere)
    assert GONE in (cache.put(item("b")).reason or "")
    assert GONE in refused(cache.clear)
    assert GONE in refused(lambda: world.cache("other", persist=True))
    assert GONE in refused(lambda: world.stores.delete_scope(*HERE))
    assert cache.get("a") is not None
    assert not folder.exists()
    elsewhere.rename(folder)
    assert cache.put(item("b")).reason is None
    world.stores.close()
    world.stores = world.made()
    assert {each.key for each in world.cache().page(None, 9).entries} == {"a", "b"}
    world.stores.close()


@POSIX
def test_a_file_that_is_gone_is_not_made_anew_behind_a_stores_back(tmp_path: Path) -> None:
    """Its entries are still known, and would be in no file; what was opened anew is an empty one."""
    world = World(tmp_path)
    cache = world.cache(persist=True)
    cache.put(item("a"))
    for each in tmp_path.glob("*/*"):
        shutil.rmtree(each)
    assert GONE in (cache.put(item("b")).reason or "")
    world.stores.close_store("answers", HERE)
    cache = world.cache(persist=True)
    assert cache.get("a") is None
    assert cache.put(item("b")).reason is None
    world.stores.close()


def test_another_disk_in_its_place_is_not_the_folder(tmp_path: Path) -> None:
    """An unmounted disk leaves its empty mount point: nothing is made there, where this worker has no lock."""
    with small_filesystem(tmp_path / "small", MIB) as mounted:
        world = World(mounted)
        cache = world.cache(persist=True)
        cache.put(item("a"))
        shutil.copytree(mounted, tmp_path / "copy")
        with small_filesystem(mounted, MIB):
            shutil.copytree(tmp_path / "copy", mounted, dirs_exist_ok=True)
            assert GONE in (cache.put(item("b")).reason or "")
            assert GONE in refused(lambda: world.cache("other", persist=True))
        assert cache.put(item("b")).reason is None
        world.stores.close()


@pytest.mark.parametrize("kind", [StoreKind.CACHE, StoreKind.SESSIONS])
def test_a_disk_that_is_read_only_takes_nothing_and_says_so(tmp_path: Path, kind: StoreKind) -> None:
    """No bug: what need not be on it is in memory, also where it can't be removed from the disk at the end."""
    with small_filesystem(tmp_path / "small", MIB) as folder:
        world = World(folder)
        kept = world.stores.open("kept", HERE, kind, Options(persist=True)).store
        kept.put(item("a", b'"1"'))
        world.stores.close()
        make_read_only(folder)
        world.stores = world.made()
        said = refused(lambda: world.stores.open("kept", HERE, kind, Options(persist=True)))
        assert "can't be written: it is read-only by now" in said
        plain = world.stores.open("plain", HERE, kind, Options()).store
        assert plain.put(item("a", b'"1"')).reason is None
        assert plain.get("a") is not None
        assert "can't be written" in refused(lambda: world.stores.delete_scope(*HERE))
        world.stores.close()


@POSIX
def test_where_it_can_not_be_told_whether_a_store_is_on_disk_that_is_said(tmp_path: Path) -> None:
    """It is not taken for one that is not there: what it has would be hidden by an empty one."""
    world = World(tmp_path)
    world.cache(persist=True)
    (home,) = world.stores._kinds
    world.stores.close()
    (user,) = (each for each in tmp_path.iterdir() if each.is_dir())
    shutil.rmtree(user)
    user.symlink_to(user)  # no path leads through it
    world.stores = world.made()
    assert "can't be written" in refused(lambda: world.stores.on_disk(HERE, home))
    assert "can't be written" in refused(world.cache)
    user.unlink()
    assert not world.stores.on_disk(HERE, home)
    world.stores.close()


def test_a_folder_that_can_not_be_had_says_why(tmp_path: Path) -> None:
    """A second worker's, and what is no folder."""
    world = World(tmp_path / "stores")
    world.cache(persist=True)
    other = World(tmp_path / "stores")
    assert "another worker uses it" in refused(lambda: other.cache(persist=True), UnsupportedError)
    world.stores.close()
    (tmp_path / "file").touch()
    assert "it is no folder: name one" in refused(lambda: World(tmp_path / "file").cache(), UnsupportedError)
    if os.name == "posix":
        below = World(tmp_path / "file" / "stores")
        assert "leads through something that is no folder" in refused(below.cache, UnsupportedError)
