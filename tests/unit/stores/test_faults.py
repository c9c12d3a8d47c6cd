"""What goes wrong around stores costs nothing that was there: a process killed, a disk that is full, memory that is short."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from protocol.generate import ROOT
from protocol.vocabulary import StoreKind
from tests.rigs.small_filesystem import small_filesystem
from tests.unit.stores.stores import HERE, World, item
from worker.plugins import OutOfMemoryError, UnsupportedError
from worker.stores import segment
from worker.stores.base import Choice, Options, Row, Scope
from worker.stores.files import StoreFile, about
from worker.stores.folder import StoreFolder

KIB = 1024


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked, so that 200 of them take seconds")
def test_200_kills_at_random_moments_tear_nothing(tmp_path: Path) -> None:
    """All that was acknowledged is there, and what was under way is there whole or not at all."""
    command = [sys.executable, "-m", "tests.rigs.killed_writer", str(tmp_path), "200", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("200 killed")
    assert int(done.stdout.split()[2]) > 200


def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    """An entry for which there is no room says so, and the older one of its key stays; deleting makes room again."""
    with small_filesystem(tmp_path / "small", 1024 * KIB) as folder:
        world = World(folder)
        cache = world.cache(persist=True)
        cache.put(item("first", b"1" * 1000))
        stored, reason = {"first": b"1" * 1000}, None
        for number in range(200):
            data = bytes([number]) * 8 * KIB
            reason = cache.put(item(str(number), data)).reason
            if reason is not None:
                break
            stored[str(number)] = data
        assert reason is not None
        assert "takes no more" in reason
        assert cache.put(item("first", b"2" * 100_000)).reason is not None
        for key, data in stored.items():
            found = cache.get(key)
            assert found is not None
            assert found.content.data == data
        world.stores.close()
        world.stores = world.made()
        cache = world.cache()
        assert {each.key for each in cache.page(None, 999).entries} == set(stored)
        cache.clear()
        assert cache.put(item("first", b"2" * 100_000)).reason is None
        world.stores.delete_scope("default_user", None)
        assert [each for each in folder.glob("*/*") if each.is_dir()] == []
        world.stores.close()


def test_a_scope_can_be_deleted_on_a_full_disk(tmp_path: Path) -> None:
    """To forget takes no room."""
    with small_filesystem(tmp_path / "small", 512 * KIB) as folder:
        world = World(folder)
        cache = world.cache(persist=True)
        for number in range(200):
            cache.put(item(str(number), bytes(8 * KIB)))
        names, entries, freed = world.stores.delete_scope(*HERE)
        assert names == ("answers",)
        assert entries > 10
        assert freed > 100 * KIB
        assert [each for each in folder.glob("*/*") if each.is_dir()] == []
        world.stores.close()


def test_a_map_that_is_refused_leaves_the_older_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory alone it is an error; what was there is there still, and every figure as it was."""
    world = World()
    cache: Any = world.cache()
    cache.put(item("a", b"old"))
    before = cache.figures()

    def refuse(size: int, _what: str) -> None:
        raise OutOfMemoryError("refused", requested_bytes=size)

    monkeypatch.setattr(segment, "anonymous", refuse)
    with pytest.raises(OutOfMemoryError):
        cache.put(item("a", bytes(3 * 2**20)))
    assert cache.figures() == before
    assert cache.get("a").content.data == b"old"


def test_a_map_that_is_refused_leaves_a_persistent_entry_on_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is stored, and read from there."""
    world = World(tmp_path)
    cache = world.cache(persist=True)
    cache.put(item("b"))

    def refuse(size: int, _what: str) -> None:
        raise OutOfMemoryError("refused", requested_bytes=size)

    monkeypatch.setattr(segment, "anonymous", refuse)
    assert cache.put(item("a", bytes(3 * 2**20))).reason is None
    found = cache.get("a")
    assert found is not None
    assert found.content.data == bytes(3 * 2**20)
    world.stores.close()


def test_reading_changes_no_file_and_opens_no_store(tmp_path: Path) -> None:
    """Whatever is asked for in whichever scope, the folder stays as it is to the byte."""
    world = World(tmp_path)
    world.cache(persist=True).put(item("a", bytes(10_000)))
    world.stores.close()

    def seen() -> dict[str, bytes]:
        return {str(each): each.read_bytes() for each in tmp_path.glob("*/*/*")}

    before = seen()
    world.stores = world.made()
    cache = world.cache()
    opened = {name: data for name, data in seen().items() if name.endswith(".store")}
    for key in ("a", "b", "a"):
        cache.get(key)
    cache.page(None, 10)
    world.stores.stats(None, HERE)
    world.stores.stats(None, Scope("nobody", "p"))
    assert world.stores.find("answers", Scope("nobody", "p")) is None
    assert {name: data for name, data in seen().items() if name.endswith(".store")} == opened
    world.stores.close()
    assert seen().keys() == before.keys()


def test_what_fails_to_be_opened_leaves_no_consumer(tmp_path: Path) -> None:
    """A folder that can't be made is told, and the store can be opened without it."""
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    world = World(blocked / "stores")
    with pytest.raises(Exception, match="--store-folder"):
        world.stores.open("a", HERE, StoreKind.CACHE, Options(persist=True))
    assert not world.consumers.by_id


def test_an_entry_that_could_not_be_deleted_is_told_of_again(tmp_path: Path) -> None:
    """What has ended on a disk that takes no more is gone for whoever asks, and removed once that is possible."""
    world = World(tmp_path)
    cache: Any = world.cache(persist=True, ttl_ms=10)
    cache.put(item("a"))
    file, change = cache._file, cache._file.change

    def full(*_: Any) -> None:
        raise OutOfMemoryError("full")

    file.change = full
    world.clock.move(10)
    world.stores.tend()
    assert cache.put(item("b")).reason == "full"
    assert cache.get("a") is None
    assert "a" in cache._table
    file.change = change
    world.stores.tend()
    assert "a" not in cache._table
    assert cache.delete(Choice(key="a")).entries == 0
    world.stores.close()


def test_opening_on_a_full_disk_leaves_nothing_half_made(tmp_path: Path) -> None:
    """It says so; with room again the store opens, and all of the user can be deleted."""
    with small_filesystem(tmp_path / "small", 512 * KIB) as folder:
        world = World(folder)
        world.cache(persist=True).put(item("a"))
        filler = folder / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(KIB)):
                pass
        with pytest.raises(OutOfMemoryError, match="takes no more"):
            world.cache("new", persist=True)
        filler.unlink()
        assert len(list(folder.glob("*/*/*.store"))) == 1
        assert list(folder.glob("*/*/*.making*")) == []
        assert world.stores.open("new", HERE, StoreKind.CACHE, Options(persist=True)).created
        assert sorted(world.stores.delete_scope(*HERE)[0]) == ["answers", "new"]
        world.stores.close()


_OPENS = """
import sys
from pathlib import Path
from protocol.vocabulary import StoreKind
from tests.unit.stores.stores import World
from worker.stores.base import Options, Scope
world = World(Path(sys.argv[1]))
for number in range(10_000):
    world.stores.open(str(number), Scope("ann", "p"), StoreKind.CACHE, Options(persist=True))
    print(number, flush=True)
"""


@pytest.mark.parametrize("opened", [5, 23])
def test_a_kill_in_a_burst_of_opens_leaves_stores_that_open_and_can_be_deleted(
    tmp_path: Path, opened: int
) -> None:
    """Each that was acknowledged is there, nothing is half made, and deleting the user deletes it all."""
    command = [sys.executable, "-c", _OPENS, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(opened):
            assert process.stdout.readline()
        process.kill()
        told = opened + len(process.stdout.read().splitlines())
    world = World(tmp_path)
    ann = Scope("ann", "p")
    assert not world.cache("0", ann).put(item("a")).reason
    assert list(tmp_path.glob("*/*/*.making*")) == []
    names, _, _ = world.stores.delete_scope("ann", None)
    assert set(map(str, range(told))) <= set(names) <= set(map(str, range(told + 1)))
    assert list(tmp_path.glob("*/*")) == []
    world.stores.close()


_ENDS = """
import os, sys
from pathlib import Path
from tests.unit.stores.stores import World
world = World(Path(sys.argv[1]))
world.cache("first", persist=True)
left = int(sys.argv[2])
def step(frame, event, called):
    global left
    if event == "c_call" and called.__name__ in {"connect", "execute", "replace", "unlink", "close"}:
        left -= 1
        if not left:
            os._exit(9)
sys.setprofile(step)
world.cache("second", persist=True)
os._exit(0)
"""


def test_wherever_the_process_ends_while_a_store_is_opened_it_is_there_whole_or_not(tmp_path: Path) -> None:
    """After each step of it: nothing is half made, both stores open, and deleting the user deletes both."""
    for steps in range(3, 100, 3):
        command = [sys.executable, "-c", _ENDS, str(tmp_path), str(steps)]
        done = subprocess.run(command, cwd=ROOT, check=False)
        assert done.returncode in {0, 9}
        for opens in (False, True):
            shutil.copytree(tmp_path, tmp_path.with_name("copy"))
            world = World(tmp_path.with_name("copy"))
            if opens:
                assert world.cache("second", persist=True).put(item("a")).reason is None
            names, _, _ = world.stores.delete_scope(*HERE)
            assert {"first"} <= set(names) <= {"first", "second"}
            assert ("second" in names) or not opens
            assert [each for each in tmp_path.with_name("copy").glob("*/*") if each.is_dir()] == []
            world.stores.close()
            shutil.rmtree(tmp_path.with_name("copy"))
        if done.returncode == 0:
            return
        shutil.rmtree(tmp_path)
    pytest.fail("opening a store takes more steps than were tried")


def test_a_store_whose_file_is_damaged_keeps_no_other_waiting(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What has ended in all other stores goes, the log says once which can't be used, and its own goes once it can be."""
    world = World(tmp_path)
    caches: list[Any] = [
        world.cache(name, scope, persist=True, ttl_ms=10)
        for name, scope in (("first", HERE), ("first", Scope("ann", "p")), ("second", HERE))
    ]
    for cache in caches:
        cache.put(item("a"))
    damaged, *others = caches
    damaged._file._close()
    whole = damaged._file.path.read_bytes()
    damaged._file.path.write_bytes(b"no database, but long enough to be taken for one" * 200)
    world.clock.move(10)
    for _ in range(3):
        world.stores.tend()
    assert [list(each._table) for each in others] == [[], []]
    assert capfd.readouterr().err.count("can't be used as a store's file") == 1
    assert damaged.get("a") is None
    damaged._file.path.write_bytes(whole)
    world.stores.tend()
    assert damaged._file.rows() == []
    assert not len(damaged._table)
    world.stores.close()


@pytest.mark.parametrize(
    "use",
    [StoreFile.rows, StoreFile.vectors, lambda file: file.read("7")],
    ids=["rows", "vectors", "read"],
)
def test_a_damaged_page_is_told_as_such_wherever_it_is_read(
    tmp_path: Path, use: Callable[[StoreFile], object]
) -> None:
    """A file can be opened though its entries' first page is damaged: who reads them is told."""
    file = StoreFile(tmp_path / "a.store", about(HERE, (StoreKind.CACHE, "answers")))
    file.change([Row(str(each), 0, 0, None, 1.0, (), 1000, content=bytes(1000)) for each in range(100)])
    file.close()
    with closing(sqlite3.connect(file.path)) as connection:
        [[page]] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'entries'")
    data = file.path.read_bytes()
    file.path.write_bytes(data[: 4096 * (page - 1)] + b"\xff" * 4096 + data[4096 * page :])
    file = StoreFile(file.path, about(HERE, (StoreKind.CACHE, "answers")))
    assert file.options() == Options()
    with pytest.raises(UnsupportedError, match="can't be used as a store's file"):
        use(file)
    file.close()


@pytest.mark.parametrize("options", ["{", "[]", '{"metric":"hamming"}'], ids=["cut", "list", "metric"])
def test_a_file_whose_options_are_damaged_stays_as_it_is(tmp_path: Path, options: str) -> None:
    """It is said, and nobody keeps the file: it can be looked at, or moved away."""
    world = World(tmp_path)
    world.cache(persist=True).put(item("a"))
    world.stores.close()
    (path,) = tmp_path.glob("*/*/*.store")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE about SET value = ? WHERE name = 'options'", (options.encode(),))
    world.stores = world.made()
    with pytest.raises(UnsupportedError, match="is damaged, and stays as it is") as caught:
        world.cache(persist=True)
    assert not is_open(path), caught
    world.stores.close()


_HOLDS = """
import sqlite3, sys
lock = sqlite3.connect(sys.argv[1], isolation_level=None)
lock.execute("BEGIN EXCLUSIVE")
print(flush=True)
sys.stdin.read()
"""


def test_who_is_refused_a_folder_keeps_nothing_of_it_open(tmp_path: Path) -> None:
    """However long the refusal is kept, and however often it is tried again."""
    lock = tmp_path / "in-use.lock"
    command = [sys.executable, "-c", _HOLDS, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UnsupportedError, match="another worker uses it") as caught:
            StoreFolder(tmp_path)
        assert not is_open(lock), caught
        other.communicate()


def is_open(path: Path) -> bool:
    """Tell whether this process has a file open."""
    return str(path.resolve()) in {each.path for each in psutil.Process().open_files()}
