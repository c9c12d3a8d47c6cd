"""A project's texts in a whole worker: many files in bounded memory, and whole files only after a kill."""

import subprocess
import sys
from pathlib import Path

import psutil

from tests.e2e.process import MIB, ROOT, worker

HERE = {"store": "texts", "project_id": "site"}
FILES = 10_000


def test_ten_thousand_files(tmp_path: Path) -> None:
    """They are loaded, found, and known again; what the worker grows by is what its store may hold, about."""
    root = tmp_path / "root"
    for number in range(FILES):
        if number % 500 == 0:
            (root / f"{number}").mkdir(parents=True)
        (root / f"{number // 500 * 500}" / f"{number}.txt").write_text(f"page{number} " + "filler " * 60)
    with worker(
        "--documents-root", str(tmp_path), "--store-folder", str(tmp_path / "stores"), patience=120.0
    ) as started:
        process = psutil.Process(started.process.pid)
        options = {"max_bytes": 32 * MIB}
        started.call("store.open", {**HERE, "kind": "documents", "options": options})
        before = process.memory_info().rss
        loaded = started.call("store.load_folder", {**HERE, "folder": "root"})
        assert (loaded["files_loaded"], loaded["files_refused"]) == (FILES, [])
        found = started.call("store.search", {**HERE, "text": "page7321", "limit": 2})["results"]
        assert [each["key"] for each in found] == ["root/7000/7321.txt//0"]
        assert process.memory_info().rss - before < 48 * MIB
        again = started.call("store.load_folder", {**HERE, "folder": "root"})
        assert (again["files_loaded"], again["files_unchanged"]) == (0, FILES)
        cleared = started.call("store.clear", HERE)
        assert cleared["returned_bytes"] >= 0.9 * FILES * 430


def test_a_killed_load_leaves_whole_files(tmp_path: Path) -> None:
    """A file counts as loaded once its last piece is on disk: the next load reads those that were not."""
    root = tmp_path / "root"
    root.mkdir()
    for number in range(300):
        (root / f"{number:03}.txt").write_text(f"start{number} " + "word " * 2_000 + f"end{number}")
    options = ("--documents-root", str(root), "--store-folder", str(tmp_path / "stores"))
    with worker(*options, patience=120.0) as started:
        started.call("store.open", {**HERE, "kind": "documents", "options": {"persist": True}})
        request_id = started.send("store.load_folder", {**HERE, "folder": "."}, meta={"progress": True})
        started.event("progress", request_id)
        started.process.kill()
        started.process.wait()
    with worker(*options, patience=120.0) as started:
        started.call("store.open", {**HERE, "kind": "documents", "options": {"persist": True}})
        loaded = started.call("store.load_folder", {**HERE, "folder": "."})
        assert loaded["files_loaded"] + loaded["files_unchanged"] == 300
        for number in (0, 150, 299):
            for word in ("start", "end"):
                found = started.call("store.search", {**HERE, "text": f"{word}{number}", "limit": 1})[
                    "results"
                ]
                assert found[0]["value"]["path"] == f"{number:03}.txt"


def test_a_root_that_is_no_folder(tmp_path: Path) -> None:
    """The worker says so when it is started, and not when the first folder is loaded."""
    (tmp_path / "file").touch()
    for root in (tmp_path / "nowhere", tmp_path / "file", tmp_path / ("x" * 300)):
        command = [sys.executable, "-m", "memory_worker", "--documents-root", str(root)]
        done = subprocess.run(command, cwd=ROOT, input="", capture_output=True, check=False, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"--documents-root {root}: there is no such folder" in done.stderr
