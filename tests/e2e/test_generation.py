"""Projects that the example writes are real ones, whichever strategy writes them; which one does, is told in bytes."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.generation.design import FRAMEWORKS, Design, Request
from examples.generation.templates import render
from tests.e2e.process import MIB, Worker, worker
from tests.rigs.gguf_models import write_llama

PLUGIN = ("--plugin", "examples.generation")
ALL = "A shop with login, photo upload, live stock and search"
HEALTH = {
    "fastapi": "from fastapi.testclient import TestClient; from app.main import app; print(TestClient(app).get('/health').text)",
    "flask": "from app.main import app; print(app.test_client().get('/health').text)",
    "django": "import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'app.settings'; import django; django.setup(); "
    "from django.test import Client; print(Client().get('/health', headers={'host': 'localhost'}).content.decode())",
}
TESTS = {
    "fastapi": ("-m", "unittest", "app.tests"),
    "flask": ("-m", "unittest", "app.tests"),
    "django": ("manage.py", "test", "app"),
}
HOSTILE = (
    "login '''\"\"\"\nimport os; os.system('x')\n{{ 7 * 7 }}{% raw %}{# \\\n"
    "\u2028\u202e\x00\"); __import__('os').abort() # search"
)


def asked(prompt: str, framework: str = "fastapi", **more: str) -> dict[str, str]:
    said = {"framework": framework, "domain": "ecommerce", "prompt": prompt}
    return {**said, "user": "ann", "project": "Corner shop_1-a", "session": prompt, **more}


def models(folder: Path, model: str) -> tuple[str, ...]:
    (folder / "models.yaml").write_text(f"models: {{generator: {model}}}", encoding="utf-8")
    return ("--models", str(folder / "models.yaml"))


def files_of(made: dict[str, Any]) -> dict[str, str]:
    return {each["path"]: each["text"] for each in made["files"]}


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Worker]]:
    """One worker for each strategy: with a model, without one, and with next to no memory."""
    folder = tmp_path_factory.mktemp("models")
    write_llama(folder / "m.gguf", context=4096)
    model = models(folder, "{path: m.gguf, params: {n_ctx: 2048, threads: 1}}")
    with (
        worker(*PLUGIN, *model, patience=120) as full,
        worker(*PLUGIN) as templates,
        worker(*PLUGIN, "--limit-bytes", str(4 * MIB)) as minimal,
    ):
        yield {"full": full, "templates": templates, "minimal": minimal}


@pytest.mark.parametrize(
    ("prompt", "domain"),
    [("Transfers", "fintech"), (ALL, "ecommerce"), (HOSTILE, "healthcare")],
    ids=["plain", "all features", "hostile"],
)
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("strategy", ["full", "templates", "minimal"])
def test_what_is_written_compiles_and_answers(
    workers: dict[str, Worker], tmp_path: Path, strategy: str, framework: str, prompt: str, domain: str
) -> None:
    """Each file compiles, a linter finds nothing, the application is imported and answers its framework's test client, and passes its own tests."""
    made = workers[strategy].call("generation.create", asked(prompt, framework, domain=domain))
    assert (made["strategy"], made["cached"]) == (strategy, False)
    files = files_of(made)
    for path, text in files.items():
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
        if path.endswith(".py"):
            compile(text, path, "exec")
    _run(
        tmp_path,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--no-cache",
        "--select",
        "E,F,W,B,UP",
        "--ignore",
        "E501",
        ".",
    )
    health = json.loads(_run(tmp_path, "-c", HEALTH[framework]))
    assert health["title"] == "Corner shop_1-a"
    if strategy == "minimal":
        assert 3 <= len(files) <= 4
    else:
        assert len(files) == 9 + len(made["features"])
        assert health["features"] == made["features"]
        _run(tmp_path, *TESTS[framework])


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_features_are_read_from_all_prompts_of_a_session(workers: dict[str, Worker]) -> None:
    """What was asked for earlier stays, in this session alone; a project that was made before is handed out again."""
    started = workers["templates"]
    said = asked("With login", session="grows", user="bob")
    assert started.call("generation.create", said)["features"] == ["auth"]
    grown = started.call("generation.create", said | {"prompt": "And live prices"})
    assert grown["features"] == ["auth", "realtime"]
    assert [each["prompt"] for each in grown["history"]] == ["With login", "And live prices"]
    again = started.call("generation.create", said | {"session": "another"})
    assert (again["features"], again["cached"], len(again["history"])) == (["auth"], True, 1)
    assert again["reason"].endswith("templates made it before")
    other = started.call("generation.create", said | {"user": "eve"})
    assert (other["cached"], len(other["history"])) == (False, 1)


@pytest.mark.parametrize(
    ("prompt", "features"),
    [
        ("OAuth and a live view", ("auth", "realtime")), ("Sign-in, attachments", ("auth", "upload")),
        ("Real-time search", ("realtime", "search")), ("A blog of authors who deliver", ()),
    ],
)  # fmt: skip
def test_features_are_whole_words(prompt: str, features: tuple[str, ...]) -> None:
    """A word that only contains one asks for nothing."""
    assert _design(prompt, "flask").features == features


def test_the_reason_is_told_in_bytes(tmp_path: Path) -> None:
    """A model that is declared with 4 GiB needs them, and the reply says what there is instead."""
    write_llama(tmp_path / "m.gguf")
    model = models(tmp_path, "{path: m.gguf, declared_bytes: 4GiB, params: {n_ctx: 512}}")
    with worker(*PLUGIN, *model, "--limit-bytes", str(64 * MIB)) as started:
        made = started.call("generation.create", asked("A shop"))
    full = "full needs 4,294,967,296 bytes, 67,108,864 available"
    assert made["reason"] == f"{full}: templates take 8,388,608 bytes"


@pytest.mark.parametrize(
    ("content", "n_ctx", "why"),
    [(b"no model", 512, "full failed: "), (None, 64, "full failed: "), (None, None, "full failed: ")],
    ids=["the load", "the generation", "not configured"],
)
def test_a_failure_falls_on(tmp_path: Path, content: bytes | None, n_ctx: int | None, why: str) -> None:
    """A model that can't be loaded, one whose context is too small, and none at all: templates, and the reason."""
    if content is None:
        write_llama(tmp_path / "m.gguf")
    else:
        (tmp_path / "m.gguf").write_bytes(content)
    model = () if n_ctx is None else models(tmp_path, f"{{path: m.gguf, params: {{n_ctx: {n_ctx}}}}}")
    with worker(*PLUGIN, *model, patience=120) as started:
        made = started.call("generation.create", asked("A shop, " + "described at length " * 10))
    assert made["strategy"] == "templates"
    assert made["reason"].startswith(why)
    assert made["reason"].endswith(": templates take 8,388,608 bytes")


def test_who_cancels_gets_no_lesser_project(tmp_path: Path) -> None:
    """A deadline ends the request as it ends any: it is no failure of the model, and leaves nothing in the session."""
    write_llama(tmp_path / "m.gguf", context=4096)
    model = models(tmp_path, "{path: m.gguf, params: {n_ctx: 2048, threads: 1}}")
    with worker(*PLUGIN, *model, patience=120) as started:
        reply = started.ask("generation.create", asked("A shop"), meta={"deadline_ms": 50})
        assert reply["error"]["code"] == "deadline_exceeded"
        assert len(started.call("generation.create", asked("A shop"))["history"]) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("framework", "rails"), ("domain", "other"), ("prompt", ""), ("prompt", "x" * 4001), ("session", 7),
        ("project", "a\nimport os"), ("project", "../a"), ("project", "{{ 7*7 }}"), ("project", "a" * 65), ("project", "é"),
        ("project", "shop\n"), ("user", None), ("user", "u" * 257), ("session", "s" * 257), ("path", "/etc"),
    ],
)  # fmt: skip
def test_bad_requests_are_named(workers: dict[str, Worker], field: str, value: object) -> None:
    """The field is named, and nothing is written or kept."""
    error = workers["minimal"].refused("generation.create", {**asked("A shop"), field: value})
    assert error["code"] == "invalid_request"
    assert error["details"]["errors"][0]["path"] == f"data.{field}"


@pytest.mark.parametrize("framework", FRAMEWORKS)
@settings(max_examples=50, deadline=None)
@given(prompt=st.text(min_size=1, max_size=200).filter(str.strip))
def test_a_prompt_is_text_in_one_place(framework: str, prompt: str) -> None:
    """Whatever it says, it is one literal of the settings; every other file is as if it said something else."""
    design = _design(prompt, framework)
    harmless = render(Design(**(vars(design) | {"description": "A shop"})))
    written = render(design)
    [path] = {path for path in harmless if written[path] != harmless[path]} | {"app/settings.py"}
    [said] = [
        ast.literal_eval(each.value)
        for each in ast.parse(written[path]).body
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "DESCRIPTION"
    ]
    assert said == prompt
    assert [type(each) for each in ast.parse(written[path]).body] == [
        type(each) for each in ast.parse(harmless[path]).body
    ]


@pytest.mark.parametrize(
    "kinds",
    [
        {}, [], {"shop": {}}, {"shop": ["name"]}, {"shop": {"id": "integer"}}, {"Shop": {"name": "text"}},
        {"a'b": {"name": "text"}}, {"shop": {"x\n": "text"}}, {"shop": {"na{{": "text"}}, {"shop": {"name": "eval"}},
    ],
)  # fmt: skip
def test_what_a_model_says_is_checked(kinds: object) -> None:
    """What could not be written is an error, and so falls on to the next strategy."""
    with pytest.raises(ValueError, match="kinds|fields|no name|another type"):
        _design("A shop", "flask").with_kinds(kinds)


def _design(prompt: str, framework: str) -> Design:
    return Request.read(dict(asked(prompt, framework))).design([])
