"""What is cut off after it began is not said to be undone, unless it is; questions see what was sent before them."""

from pathlib import Path

import pytest

from tests.e2e.process import ROOT, eventually, worker

PLUGIN = """
import time
from pathlib import Path


def register(host):
    {before}
    def mark(data, call):
        Path(data["path"]).write_text("begun")
        while True:
            time.sleep(0.01)
            call.token.check()

    def embed(data, call):
        return {{"vectors": [[float(len(text)), 1.0] for text in data["texts"]]}}

    host.add_action("my.mark", mark)
    host.add_action("my.embed", embed)
"""


def plugin(folder: Path, before: str = "") -> dict[str, str]:
    """Write a plugin, and return the environment that finds it."""
    (folder / "marking.py").write_text(PLUGIN.format(before=before))
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_a_plugins_action_that_began_may_have_done_something(how: str, tmp_path: Path) -> None:
    """The host is told that it is not known, so that it does not do the same again; one that never began did nothing."""
    marked, never = tmp_path / "marked", tmp_path / "never"
    with worker("--plugin", "marking", environment=plugin(tmp_path)) as started:
        meta = {"deadline_ms": 500} if how == "deadline" else None
        while not marked.exists():  # where the machine is slow, it may be cut off before it begins
            cut = started.send("my.mark", {"path": str(marked)}, meta=meta)
            eventually(lambda cut=cut: marked.exists() or started.replies(cut), "it begins")
        if how == "cancel":
            assert started.call("worker.cancel", {"request_id": cut})["found"]
        error = started.reply(cut)["error"]
        assert error["code"] == {"deadline": "deadline_exceeded", "cancel": "cancelled"}[how]
        assert error["executed"] == "unknown"
        assert "what it did until then is done" in error["message"]
        late = started.reply(started.send("my.mark", {"path": str(never)}, meta={"deadline_ms": 0}))["error"]
        assert (late["executed"], never.exists()) == ("no", False)


def test_documents_are_embedded_whatever_a_plugin_registers_first(tmp_path: Path) -> None:
    """A plugin that names its stores while it is registered does not leave documents without vectors."""
    (tmp_path / "a.txt").write_text("a text")
    environment = plugin(tmp_path, 'host.stores.documents("notes")')
    options = ("--plugin", "marking", "--documents-root", str(tmp_path), "--documents-embedder", "my.embed")
    with worker(*options, environment=environment) as started:
        here = {"store": "texts"}
        started.call("store.open", {**here, "kind": "documents"})
        started.call("store.load_folder", {**here, "folder": ".", "extensions": ["txt"]})
        (found,) = started.call("store.search", {**here, "vector": [6.0, 1.0]})["results"]
        assert (found["key"], round(found["score"], 3)) == ("a.txt//0", 1.0)


def test_figures_are_of_what_was_sent_before() -> None:
    """Piped in one go, ``store.stats`` knows the stores that were opened and filled before it."""
    with worker() as started:
        for round_ in range(20):
            store = {"store": f"s{round_}"}
            started.send("store.open", {**store, "kind": "cache"})
            started.send("store.put", {**store, "key": "a", "value": "x" * 2_000_000})
            one = started.send("store.stats", store)
            every = started.send("store.stats", {})
            assert started.reply(one)["data"]["entry_count"] == 1
            assert started.reply(every)["data"]["entry_count"] == round_ + 1
