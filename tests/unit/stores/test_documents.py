"""Documents are texts in pieces: folders are loaded once, found by words and by vectors, and never read outside their root."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.vocabulary import StoreKind
from tests.unit.stores.stores import HERE, World, item
from worker.core.cancellation import CancelToken
from worker.plugins import CancelledError, InvalidRequestError, LoadedFolder, UnsupportedError
from worker.stores.base import Choice, FolderRequest, Options, Question, Scope, Store, Tools
from worker.stores.documents import merged
from worker.stores.folders import pieces
from worker.stores.registry import Stores

TOPICS = ("cat", "tax", "sea")


def embed(texts: Sequence[str], _: CancelToken) -> list[list[float]]:
    """Tell topics apart, also where a text says them in other words."""
    said = {"cat": ("cat", "kitten"), "tax": ("tax", "levy"), "sea": ("sea", "ocean")}
    return [[1.0 + sum(text.count(word) for word in said[topic]) for topic in TOPICS] for text in texts]


class Library(World):
    """Stores of documents, with a folder that may be read."""

    def __init__(self, root: Path | None, folder: Path | None = None, *, embedding: bool = False) -> None:
        self.root = root
        self.embedding = embedding
        super().__init__(folder)

    def made(self) -> Stores:
        self.consumers.by_id.clear()
        tools = Tools(
            self.consumers,
            self.clock.now_ns,
            self.clock.utc_ms,
            self.folder,
            documents_root=self.root,
            embed=embed if self.embedding else None,
        )
        return Stores(tools)

    def open(self, scope: Scope = HERE, **options: bool | int) -> Store:
        return self.stores.open("texts", scope, StoreKind.DOCUMENTS, Options(**options)).store

    def load(self, folder: str = ".", scope: Scope = HERE, **more: tuple[str, ...] | int) -> LoadedFolder:
        token = CancelToken(self.clock.now_ns)
        request = FolderRequest(folder, **more)
        return self.stores.load_folder("texts", scope, request, token, lambda _done, _total: None)

    def found(self, text: str, scope: Scope = HERE, limit: int = 10) -> list[str]:
        hits = self.stores.get("texts", scope).search(Question(None, text, limit))
        return [each.key for each in hits]


def write(root: Path, **texts: str) -> Path:
    for name, text in texts.items():
        path = root / name.replace("__", "/").replace("_md", ".md").replace("_py", ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder of three texts."""
    return write(tmp_path / "root", a_md="the cat sat", b_md="the tax rose", deep__c_py="sea = 1\n")


def test_a_folder_is_loaded_once(root: Path) -> None:
    """What is as it was is not read again; what changed is, what is gone goes; other keys stay."""
    library = Library(root)
    store = library.open()
    store.put(item("mine", b'"a zebra"'))
    assert library.load() == LoadedFolder(3, 0, 0, ())
    assert library.load() == LoadedFolder(0, 3, 0, ())
    write(root, a_md="the dog sat down")
    (root / "b.md").unlink()
    assert library.load() == LoadedFolder(1, 1, 1, ())
    assert (library.found("dog"), library.found("cat"), library.found("tax")) == (["a.md//0"], [], [])
    assert (library.found("zebra"), library.found("sea")) == (["mine"], ["deep/c.py//0"])


def test_it_is_known_again_after_a_restart(root: Path, tmp_path: Path) -> None:
    """What persists is not read again, and found by its words, whose index is made anew."""
    library = Library(root, tmp_path / "stores")
    library.open(persist=True)
    library.load()
    library.stores.close()
    library.stores = library.made()
    library.open(persist=True)
    assert library.load() == LoadedFolder(0, 3, 0, ())
    assert library.found("tax") == ["b.md//0"]


def test_what_is_chosen(root: Path) -> None:
    """By endings and patterns; hidden files and folders are left out; what is left out now is removed."""
    write(root, _git__x_md="hidden")
    (root / "_git").rename(root / ".git")
    library = Library(root)
    library.open()
    assert library.load(extensions=("md",)).loaded == 2
    assert library.load(excludes=("deep", "b.*")) == LoadedFolder(0, 1, 1, ())
    assert library.load(extensions=(".py",)) == LoadedFolder(1, 0, 1, ())


def test_what_is_no_text_is_refused_with_its_path(root: Path) -> None:
    """Bytes, a link out, a circle of links, a pipe: named each, and the others are loaded."""
    (root / "bin.md").write_bytes(b"\xff\xfe\x00")
    (root / "nul.md").write_bytes(b"a\0b")
    (root / "out.md").symlink_to("/etc/passwd")
    (root / "round.md").symlink_to("round.md")
    (root / "in.md").symlink_to("a.md")
    os.mkfifo(root / "pipe.md")
    library = Library(root)
    library.open()
    loaded = library.load()
    assert loaded.loaded == 4
    assert {name: reason.split(":")[0] for name, reason in loaded.refused} == {
        "bin.md": "it is no text in UTF-8",
        "nul.md": "it is no text",
        "out.md": "it is a link that leads out of the folder",
        "pipe.md": "it is no file",
        "round.md": dict(loaded.refused)["round.md"].split(":")[0],
    }
    assert library.load().unchanged == 4


@pytest.mark.parametrize(
    "folder", ["..", "/etc", "nowhere", "a.md", "deep/../../..", "x" * 300, "a\0b", "round"]
)
def test_only_folders_below_the_root(folder: str, root: Path) -> None:
    """What leads out, is not there, is a file, or can be no path, is no folder to be read."""
    (root / "round").symlink_to("round")
    library = Library(root)
    library.open()
    with pytest.raises(InvalidRequestError, match="below|leads out"):
        library.load(folder)


def test_without_a_root_nothing_is_read(root: Path) -> None:
    """The operator names it; and only stores of documents take folders."""
    library = Library(None)
    library.open()
    with pytest.raises(UnsupportedError, match="--documents-root"):
        library.load()
    caches = Library(root)
    caches.stores.open("texts", HERE, StoreKind.CACHE, Options())
    with pytest.raises(UnsupportedError, match="kind documents"):
        caches.load()


def test_projects_are_apart(root: Path) -> None:
    """Each finds its own texts only."""
    library, ann, bob = Library(root), Scope("ann", "x"), Scope("bob", "x")
    library.open(ann)
    library.open(bob)
    library.load("deep", bob)
    library.load(".", ann, excludes=("deep",))
    assert (library.found("cat sea", ann), library.found("cat sea", bob)) == (["a.md//0"], ["deep/c.py//0"])


def test_folders_beside_each_other_stay(root: Path) -> None:
    """Loading one removes nothing of another, nor what was put by hand, whatever its key."""
    write(root, other__d_md="a dog")
    library = Library(root)
    store = library.open()
    store.put(item("https://x//0", b'"a zebra"'))
    assert library.load("deep").loaded == 1
    assert library.load("other") == LoadedFolder(1, 0, 0, ())
    assert (library.found("sea"), library.found("dog")) == (["deep/c.py//0"], ["other/d.md//0"])
    assert library.found("zebra") == ["https://x//0"]


def test_a_file_that_is_no_text_any_more_is_not_found(root: Path) -> None:
    """What it was is not in the store, either."""
    library = Library(root)
    library.open()
    library.load()
    (root / "a.md").write_bytes(b"\xff\xfe")
    assert [name for name, _ in library.load().refused] == ["a.md"]
    assert library.found("cat") == []


def test_a_folder_that_can_not_be_read_is_not_gone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told of, and what was loaded from it stays."""
    library = Library(root)
    library.open()
    library.load()
    scan = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    loaded = library.load()
    assert (loaded.removed, [name for name, _ in loaded.refused]) == (0, ["deep"])
    assert library.found("sea") == ["deep/c.py//0"]


def test_without_its_last_vector_a_store_takes_others(root: Path) -> None:
    """Texts that stay don't keep it from any: of other dimensions, and found."""
    library = Library(root)
    store = library.open()
    store.put(item("a", b'"one"', vector=[1.0, 0.0]))
    store.put(item("b", b'"two"'))
    store.delete(Choice(key="a"))
    store.put(item("c", b'"three"', vector=[0.0, 1.0, 0.0]))
    assert [each.key for each in store.search(Question([0.0, 1.0, 0.0], None, 5))] == ["c"]
    store.put(item("c", b'"three"'))
    store.put(item("c", b'"three"', vector=[2.0]))
    assert [each.key for each in store.search(Question([1.0], None, 5))] == ["c"]


def test_words_and_vectors_together(root: Path) -> None:
    """With something that embeds, a text is found that says it in other words; a vector alone does, too."""
    library = Library(write(root, d_md="a kitten played", e_md="an ocean of levies"), embedding=True)
    store = library.open()
    library.load()
    assert library.found("cat", limit=2) == ["a.md//0", "d.md//0"]
    (nearest, *_) = store.search(Question([1.0, 1.0, 3.0], None, 1))
    assert nearest.key in {"deep/c.py//0", "e.md//0"}


def test_vectors_of_the_callers_own(root: Path) -> None:
    """Texts with and without; one that is put again without has none any more."""
    library = Library(root)
    store = library.open()
    store.put(item("a", b'{"text": "one"}', vector=[1.0, 0.0]))
    store.put(item("b", b'"two"'))
    assert [each.key for each in store.search(Question([1.0, 0.0], None, 5))] == ["a"]
    assert library.found("two") == ["b"]
    store.put(item("a", b'"one"'))
    assert store.search(Question([1.0, 0.0], None, 5)) == ()
    assert library.found("one") == ["a"]
    with pytest.raises(InvalidRequestError, match='a text, or an object with one: {"text"'):
        store.put(item("d", b"5"))


def test_a_file_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    """It is refused with the reason, no piece of it is there, and smaller ones are."""
    root = write(tmp_path / "root", a_md="small", b_md="large " * 4000)
    library = Library(root)
    store = library.open(max_bytes=8_192)
    loaded = library.load()
    assert (loaded.loaded, [name for name, _ in loaded.refused]) == (1, ["b.md"])
    assert "max_bytes" in loaded.refused[0][1]
    assert [each.key for each in store.page(None, 10).entries] == ["a.md//0"]


def test_a_cancelled_load_goes_on_later(root: Path) -> None:
    """What was loaded stays, and is not read again; of a file that was half done nothing is left."""
    library = Library(root)
    library.open()
    token = CancelToken(library.clock.now_ns)

    def report(done: int, _total: int) -> None:
        if done:
            token.cancel()

    with pytest.raises(CancelledError):
        library.stores.load_folder("texts", HERE, FolderRequest("."), token, report)
    assert library.load() == LoadedFolder(2, 1, 0, ())


def test_all_of_it_is_given_back(root: Path) -> None:
    """Words too: what an emptied or closed store held is nothing."""
    library = Library(root)
    store = library.open()
    library.load()
    library.found("cat")
    assert store.figures().held_bytes > 0
    store.delete(Choice(prefix="a.md"))
    assert library.found("cat") == []
    store.clear()
    assert store.figures().held_bytes == 0
    library.load()
    library.found("cat")
    library.stores.close_store("texts", HERE)
    assert library.consumers.by_id == {}


def test_words_that_are_removed_are_forgotten() -> None:
    """The index is made anew once most of it is of texts that are gone."""
    library = Library(None)
    store = library.open()
    for round_ in range(5):
        for number in range(1000):
            store.put(item(str(number), f'"word{round_} n{number}"'.encode()))
        assert library.found(f"word{round_} n7", limit=1) == ["7"]
    assert library.found("word3") == []
    words = store._words
    assert words._last < 3500


@settings(max_examples=300)
@given(st.text(), st.integers(8, 200))
def test_pieces_are_the_text(text: str, chunk_bytes: int) -> None:
    """Whole letters, none too long, and nothing but blanks is left out between."""
    found = list(pieces(text, chunk_bytes))
    assert all(0 < len(each.encode()) <= chunk_bytes for each in found)
    assert "".join("".join(found).split()) == "".join(text.split())


def test_pieces_end_where_a_reader_would() -> None:
    """At a paragraph before a line, at a line before a word."""
    assert list(pieces("aaaaaa\n\nb\nc d e", 12)) == ["aaaaaa\n\n", "b\nc d e"]
    assert list(pieces("aaaa bbbb\ncc dd", 12)) == ["aaaa bbbb\n", "cc dd"]
    assert list(pieces("aaaa bbbb ccdd", 12)) == ["aaaa bbbb ", "ccdd"]
    assert list(pieces("x" * 20, 12)) == ["x" * 12, "x" * 8]


def test_rankings_are_merged_by_rank() -> None:
    """One stays as it is; what both have high comes first."""
    assert merged([[("a", 9.0), ("b", 1.0)]]) == [("a", 9.0), ("b", 1.0)]
    both = merged([[("a", 9.0), ("b", 1.0)], [("b", 0.9), ("c", 0.8)]])
    assert [key for key, _ in both] == ["b", "a", "c"]


def test_some_vectors_come_back_from_a_cold_file(root: Path, tmp_path: Path) -> None:
    """After a restart those that have one are found by it, and all by their words."""
    library = Library(root, tmp_path / "stores")
    store = library.open(persist=True)
    store.put(item("a", b'"one"', vector=[1.0, 0.0]))
    store.put(item("b", b'"two"'))
    library.stores.close()
    library.stores = library.made()
    store = library.open(persist=True)
    assert [each.key for each in store.search(Question([1.0, 0.0], None, 5))] == ["a"]
    assert (library.found("one"), library.found("two")) == (["a"], ["b"])


def test_another_embedder_is_told_of_and_what_to_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading and searching name what the embedder makes and the store has; cleared, it loads again."""
    library = Library(write(root, a_md="a cat"), embedding=True)
    library.open()
    library.load()
    library.stores._tools = replace(library.stores._tools, embed=lambda texts, _: [[1.0, 2.0]] * len(texts))
    write(root, b_md="a sea")
    kind = library.stores.kind((StoreKind.DOCUMENTS, "texts"))
    monkeypatch.setattr(kind, "embed", library.stores._tools.embed)
    for ask in (library.load, lambda: library.found("cat")):
        with pytest.raises(UnsupportedError, match=r"makes vectors of 2 dimensions.*such of 3.*store\.clear"):
            ask()
    library.stores.get("texts", HERE).clear()
    library.load()
    assert library.found("sea")


@pytest.mark.parametrize("chunk_bytes", [-1, 0, 1, 63, 2**20 + 1])
def test_pieces_of_no_size_are_refused(root: Path, chunk_bytes: int) -> None:
    """With what is allowed, before anything is read; there is no letter in less than one byte."""
    library = Library(root)
    library.open()
    with pytest.raises(InvalidRequestError, match="from 64 to 1048576"):
        library.load(chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "there"])
def test_pieces_that_an_end_of_the_process_left_are_found(tmp_path: Path, *, gone: bool) -> None:
    """The first piece is put last: without it the others are of a file that was not loaded. Keys of one's own stay."""
    root = write(tmp_path / "root", a_md="the cat sat")
    library = Library(root)
    store = library.open()
    name = "b.md" if gone else "a.md"
    for number in (1, 2):
        said = {"path": name, "chunk": number, "text": "torn"}
        store.put(item(f"{name}//{number}", orjson.dumps(said)))
    store.put(item("own//1", b'"torn by hand"'))
    library.load()
    assert [each.key for each in store.page(None, 10).entries] == ["a.md//0", "own//1"]


def test_documents_are_not_quick(root: Path) -> None:
    """A text's words are indexed: who waits for an answer to something else is not to wait for that."""
    assert not Library(root).open().quick
