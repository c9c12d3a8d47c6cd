"""Beginnings of prompts around a real llama.cpp: had back after the model was gone, of it and its scope alone, never other text."""

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")

from tests.rigs.gguf_models import write_llama
from tests.rigs.prefix_caching import TEXT, Writer, opened
from tests.unit.stores.stores import World
from worker.backends.engines import asking, llama_prefix
from worker.backends.engines.llama_prefix import BLOCK, StateFolder, identity
from worker.core.tensor_file import Part, packed
from worker.plugins import StoreNotFoundError
from worker.stores.base import Scope

WHOLE = 448
"""Tokens of TEXT in whole blocks."""
HERE = Scope("default_user", "default")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model."""
    return write_llama(tmp_path_factory.mktemp("gguf") / "m.gguf", context=1024)


@pytest.fixture(scope="module")
def alone(model: Path) -> str:
    """Return what the model writes without any of this."""
    with opened(model, World().stores, prefix_cache=0) as writer:
        return writer.write()[0]


def count(world: World, scope: Scope = HERE) -> int:
    """Return how many blocks there are."""
    return world.stores.stats("prefix:writer", scope).entry_count


@pytest.mark.parametrize("params", [{}, {"flash_attn": "off"}, {"n_parallel": 2}, {"cache_type_k": "bf16"}])
def test_what_was_worked_out_is_had_back_after_the_model_was_gone(
    model: Path, params: dict[str, Any]
) -> None:
    """The same greedy text; of a longer prompt that begins alike, what both have in whole blocks."""
    world = World()
    with opened(model, world.stores, prefix_cache=0, **params) as writer:
        first, longer = writer.write()[0], writer.write(TEXT[:400] + "and on it goes")[0]
    with opened(model, world.stores, **params) as writer:
        assert writer.write() == (first, 0)
    assert count(world) == WHOLE // BLOCK
    with opened(model, world.stores, **params) as writer:
        assert writer.write() == (first, WHOLE)
    with opened(model, world.stores, **params) as writer:
        assert writer.write(TEXT[:400] + "and on it goes") == (longer, 384)
        figures = world.stores.stats("prefix:writer", HERE)
        assert (figures.hits, figures.saved_ms > 0) == ((WHOLE + 384) // BLOCK, True)


def test_what_the_slot_has_is_neither_had_back_nor_put_again(model: Path, alone: str) -> None:
    """llama.cpp's own cache comes first; a continued text adds its new blocks alone."""
    world = World()
    with opened(model, world.stores) as writer:
        writer.write()
        (_, put) = writer.direct.asked
        assert (len(put["blocks"]), len(put["tokens"]), put["cost_ms"] > 0) == (WHOLE // BLOCK, WHOLE, True)
        assert writer.write()[0] == alone
        assert len(writer.direct.asked) == 2, "nothing was asked"
        text, cached = writer.write(TEXT + alone + "on" * BLOCK)
        assert cached > WHOLE
        last = writer.direct.asked[-1]
        assert (last["do"], len(last["tokens"]) // BLOCK - len(last["blocks"])) == ("put", WHOLE // BLOCK), (
            text
        )


def test_another_file_another_param_and_another_version_are_another_model(
    model: Path, tmp_path: Path
) -> None:
    """None finds what was put for the other; threads, and whether pages are mapped, make no difference."""
    params = {"n_parallel": 1, "cache_type_k": 1, "n_threads": 1, "use_mmap": True, "files": ["x"]}
    copy = tmp_path / "copy.gguf"
    shutil.copy(model, copy)
    mine = identity([str(copy)], params, "1")
    same = params | {"n_threads": 2, "use_mmap": False, "files": ["y"]}
    assert identity([str(copy)], same, "1") == mine
    others = {identity([str(copy)], params | {"cache_type_k": 8}, "1"), identity([str(copy)], params, "2")}
    others.add(identity([str(model)], params, "1"))
    times = (copy.stat().st_atime_ns, copy.stat().st_mtime_ns)
    with copy.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    os.utime(copy, ns=times)
    others.add(identity([str(copy)], params, "1"))
    assert len(others | {mine}) == 5, "its last byte, too, is looked at, whatever its time says"
    world = World()
    with opened(model, world.stores) as writer:
        writer.write()
    other = write_llama(tmp_path / "other.gguf", context=1024, seed=2)
    for path, params in ((other, {}), (model, {"cache_type_v": "f32"})):
        with opened(path, world.stores, **params) as writer:
            assert writer.write()[1] == 0, params
    assert count(world) == 3 * WHOLE // BLOCK


def test_scopes_never_have_each_others(model: Path, alone: str) -> None:
    """Neither found nor deleted: what is one user's is no one else's, whose prompt begins alike."""
    world = World()
    with opened(model, world.stores) as writer:
        writer.write(user_id="ann", project_id="site")
    with opened(model, world.stores) as writer:
        assert writer.write(user_id="ann_site", project_id="default") == (alone, 0)
    with pytest.raises(StoreNotFoundError):
        world.stores.get("prefix:writer", HERE)
    world.stores.delete_scope("ann_site", None)
    with opened(model, world.stores) as writer:
        assert writer.write(user_id="ann", project_id="site") == (alone, WHOLE)


def test_what_can_t_be_had_back_is_worked_out_and_put_anew(
    model: Path, alone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged block: the text is the same, the cause is told, and the next time it is had back."""
    world = World()
    with opened(model, world.stores) as writer:
        writer.write()
    first = world.stores.get("prefix:writer", HERE).page(None, 1).entries[0].key
    damaged = packed({"tokens": Part("U8", (1,), b"x")}, {"layout": "[]"})
    with opened(model, world.stores) as writer:
        put = {"do": "put", "scope": HERE, "step": BLOCK, "blocks": [damaged], "cost_ms": 1.0}
        asked = writer.session.session._tokens({"prompt": TEXT})[:BLOCK]
        with writer.direct.ask(put | {"model": first.partition("//")[0], "tokens": asked}):
            pass
        assert writer.write() == (alone, 0)
        assert "could not be given back, and is worked out" in capsys.readouterr().err
    with opened(model, world.stores) as writer:
        assert writer.write() == (alone, WHOLE)


def test_what_llama_cpp_refuses_is_worked_out(
    model: Path, alone: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state of another type is refused by llama.cpp itself, and one cut short by us: that would end it. Neither text nor slot suffers."""
    world = World()
    with opened(model, world.stores) as writer:
        writer.write()
    whole = llama_prefix.joined
    f16, bf16 = struct.pack("<iQ", 1, 32), struct.pack("<iQ", 30, 32)
    for other, said in (
        (
            lambda pieces: [bf16 if each == f16 else each for each in pieces],
            "llama.cpp refused POST /slots/0",
        ),
        (lambda pieces: pieces[:-2], "it ends early"),
    ):
        monkeypatch.setattr(llama_prefix, "joined", lambda *given, other=other: other(list(whole(*given))))
        with opened(model, world.stores) as writer:
            assert writer.write() == (alone, 0)
            assert said in capsys.readouterr().err
            assert writer.write()[0] == alone
            assert capsys.readouterr().err == ""


def test_a_cache_of_another_kind_is_left_alone_and_that_is_told_once(
    model: Path, alone: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept of it."""

    def other(_: object) -> None:
        raise ValueError("it has more than keys and values")

    monkeypatch.setattr(llama_prefix, "parsed", other)
    with opened(model, World().stores) as writer:
        assert writer.write()[0] == alone
        assert capsys.readouterr().err.count("of a kind of which no prefixes are kept") == 1
        assert writer.write()[0] == alone
        assert [each["do"] for each in writer.direct.asked] == ["longest"]


def backwards(writer: Writer) -> None:
    """Have another prompt of as many tokens done."""
    first, *rest = writer.session.session._tokens({"prompt": TEXT})
    assert writer.write([first, *reversed(rest)], ignore_eos=True)


@pytest.mark.parametrize(
    "meanwhile",
    [backwards, lambda writer: writer.write(TEXT + "b" * BLOCK), lambda writer: writer.session.shrink()],
    ids=["another prompt", "one that begins alike", "cleared"],
)
def test_what_another_left_in_the_sequence_is_not_put(
    model: Path, alone: str, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[Writer], object]
) -> None:
    """A prompt without a sequence of its own has it between the completion and its capture; the next time all is put."""
    world = World()
    with opened(model, world.stores) as writer:
        caching = writer.session.session._caching
        ask = caching._ask

        def late(method: str, path: str, body: Any) -> Any:
            if path.endswith("save"):
                monkeypatch.setattr(caching, "_ask", ask)
                meanwhile(writer)
            return ask(method, path, body)

        monkeypatch.setattr(caching, "_ask", late)
        assert writer.write(ignore_eos=True)[0] == alone
        assert "put" not in [each["do"] for each in writer.direct.asked]
        assert writer.write()[0] == alone
        assert count(world) == WHOLE // BLOCK


def test_a_sequence_that_is_in_use_is_known_by_who_has_it(model: Path, alone: str) -> None:
    """A prompt that goes on without the store changes nothing of it; of those that are free nothing is known then."""
    with opened(model, World().stores, n_parallel=2, n_ctx=2048) as writer:
        writer.write()
        had, free = writer.session.session._caching._slots
        free.tokens, had.busy, known = [1], True, had.tokens
        writer.write(cache_prompt=False)
        assert (had.tokens, len(known) > WHOLE, free.tokens) == (known, True, ())
        had.busy = False
        assert writer.write()[0] == alone


@pytest.mark.parametrize(
    ("action", "asked"),
    [
        ("completions", {"prompt": [-1]}),
        ("completions", {"prompt": []}),
        ("chat_completions", {"messages": ["hello"]}),
        ("chat_completions", {"messages": "hello"}),
        ("chat_completions", {}),
    ],
)
def test_what_is_no_prompt_is_answered_as_without_prefixes(
    model: Path, action: str, asked: dict[str, Any]
) -> None:
    """By llama.cpp's own words, or its library's error; nothing is asked of the store for it."""
    said = []
    for size in (0, "4MiB"):
        with opened(model, World().stores, prefix_cache=size) as writer:
            asking._working.asker = writer.direct  # type: ignore[assignment]
            try:
                found = getattr(writer.session.session, f"handle_{action}")(asked | {"max_tokens": 1})
                said.append(found.get("error") or found["choices"][0]["text"])
            except (ValueError, TypeError, RuntimeError, KeyError) as error:
                said.append(repr(error))
            finally:
                asking._working.asker = None
            assert writer.direct.asked == []
    assert said[0] == said[1]


def test_one_that_is_closed_as_soon_as_it_is_open_ends(model: Path) -> None:
    """Its threads, too: a process of its own, since what waits for them holds Python."""
    script = (
        "import sys; from pathlib import Path; from tests.rigs.prefix_caching import opened\n"
        "for size in (0, '4MiB'):\n"
        "    with opened(Path(sys.argv[1]), None, prefix_cache=size): pass\n"
    )
    command = [sys.executable, "-c", script, str(model)]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("token", [-1, 2**31, 2**40, 2**64])
@pytest.mark.parametrize("size", [0, "4MiB"])
def test_what_is_no_token_is_refused(model: Path, token: int, size: int | str) -> None:
    """By llama.cpp, which would take another in its place: the lower 32 bits."""
    prompts = [token], [1, token], [[token]], ["a", token], {"prompt_string": [token]}
    with opened(model, World().stores, prefix_cache=size) as writer:
        for prompt in prompts:
            asked = {"prompt": prompt, "max_tokens": 1}
            pieces: list[Any] = []
            writer.session.session.handle_completions(asked | {"stream": True}, pieces.append)
            for said in (writer.session.session.handle_completions(asked), *pieces):
                assert said["error"]["message"] == "Prompt contains invalid tokens", prompt
            assert pieces
    with opened(model, World().stores, prefix_cache=size, embedding=True, pooling_type="mean") as writer:
        for name in ("input", "content"):
            said = writer.session.session.handle_embeddings({name: [1, token]})
            assert said["error"]["message"] == "Prompt contains invalid tokens"


def test_what_takes_longer_to_have_than_to_work_out_is_worked_out(model: Path, alone: str) -> None:
    """As both were measured of late; and what takes longer to put than it would save is not put."""
    world = World()
    with opened(model, world.stores) as writer:
        writer.write()
    with opened(model, world.stores) as writer:
        caching = writer.session.session._caching
        caching._ms |= {"prefill": 1.0, "restore": 2.0}
        assert writer.write() == (alone, 0)
        assert count(world) == WHOLE // BLOCK
        caching._ms |= {"prefill": 1.0, "capture": 10.0**6}
        writer.write("b" * 200)
        assert count(world) == WHOLE // BLOCK


def test_the_price_of_a_token_is_that_of_long_prompts(model: Path) -> None:
    """A few tokens take their request's own time, too: they count as the few that they are."""
    world = World()
    with opened(model, world.stores) as writer:
        caching = writer.session.session._caching
        for tokens, took_ms in ((1000, 400.0), (20, 200.0)):
            caching._mean("prefill", tokens, took_ms)
        assert caching._ms["prefill"] == pytest.approx((400 / 2 + 200) / (1000 / 2 + 20))
        caching._mean("prefill", 1000, 400.0)
        assert caching._ms["prefill"] == pytest.approx(0.4, rel=0.25)


@pytest.mark.parametrize(
    "more", [{"cache_prompt": False}, {"prompt": [TEXT, TEXT]}, {"prompt": ["a"]}, {"n": 2}, {"id_slot": 5}]
)
def test_what_is_no_plain_completion_goes_on_as_it_is(model: Path, more: dict[str, Any]) -> None:
    """Nothing is asked of the store for it."""
    with opened(model, World().stores) as writer:
        try:
            writer.write(**more)
        except AssertionError as refused:
            assert "error" in str(refused)
        assert writer.direct.asked == []


def test_clearing_the_cache_is_noticed_and_what_was_cleared_is_had_back(model: Path, alone: str) -> None:
    """A model that gave working memory back need not work its prompt out again."""
    with opened(model, World().stores) as writer:
        writer.write()
        writer.session.shrink()
        assert writer.write() == (alone, WHOLE)


def test_messages_have_beginnings_too(model: Path) -> None:
    """A chat that goes on, after the model was gone: all of it but the last words is there."""
    world = World()
    messages = [{"role": "user", "content": TEXT}]

    def said(writer: Writer, messages: list[dict[str, str]]) -> dict[str, Any]:
        asking._working.asker = writer.direct
        try:
            asked = {"messages": messages, "max_tokens": 4, "temperature": 0}
            result: dict[str, Any] = writer.session.session.handle_chat_completions(asked)
        finally:
            asking._working.asker = None
        return result

    with opened(model, world.stores) as writer:
        first = said(writer, messages)
    with opened(model, world.stores) as writer:
        messages += [first["choices"][0]["message"], {"role": "user", "content": "and then?"}]
        assert said(writer, messages)["usage"]["prompt_tokens_details"]["cached_tokens"] >= WHOLE


def test_states_go_through_files_where_there_are_no_descriptors(
    model: Path, alone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows and macOS: a folder of its own, which is gone with the model."""
    world = World()
    monkeypatch.setattr("worker.backends.engines.llama_prefix._DESCRIPTORS", "/nowhere/")
    folders = []
    for cached in (0, WHOLE):
        with opened(model, world.stores) as writer:
            states = writer.session._states
            assert isinstance(states, StateFolder)
            folders.append(Path(states.path))
            assert writer.write() == (alone, cached)
            assert list(folders[-1].iterdir()) == []
    assert not any(each.exists() for each in folders)


def test_prompts_at_once_have_sequences_of_their_own(model: Path) -> None:
    """More of them than sequences: each has its own text, and what has no sequence to itself goes on without the store."""
    world = World()
    prompts = [f"{number} {TEXT}" for number in range(4)]
    with opened(model, world.stores, n_parallel=2, n_ctx=2048) as writer:
        alone = [writer.write(prompt)[0] for prompt in prompts]
    with opened(model, world.stores, n_parallel=2, n_ctx=2048) as writer, ThreadPoolExecutor(4) as threads:
        found = list(threads.map(writer.write, prompts))
        assert [text for text, _ in found] == alone
        assert not any(each.busy for each in writer.session.session._caching._slots)
        assert all(writer.write(prompt)[1] >= WHOLE for prompt in prompts)
