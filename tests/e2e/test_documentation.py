"""Whatever a page shows is run as it stands, or held to what can be checked without running it."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from protocol.actions import ACTIONS, EVENTS
from protocol.contract import json_schema
from tests.e2e.process import ENTRY, ROOT, worker
from tests.rigs.pages import Snippet, snippets

PLAIN = {"", "text", "mermaid"}
"""Pictures and what programs print: read, not run."""
TESTED = PLAIN | {"python", "json", "yaml", "sh", "csharp", "xml"}
PLACEHOLDER = "..."


def ids(*languages: str) -> Any:
    """Parametrize over the blocks of some languages."""
    return pytest.mark.parametrize("shown", snippets(*languages), ids=str)


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    """What is in another language would be shown untested: mark it as text, or teach the tests its language."""
    assert {f"{one}: {one.language}" for one in snippets() if one.language not in TESTED} == set()


# ---- Python ----------------------------------------------------------------------------------------


@ids("python")
def test_python(shown: Snippet, tmp_path: Path) -> None:
    """A plugin is loaded by a worker; anything else is run, exits with 0 and writes nothing to stderr.

    What is not run is at least Python whose imports are there.
    """
    if shown.not_run:
        imports = [one for one in ast.parse(shown.text).body if isinstance(one, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), str(shown), "exec"), {})  # noqa: S102 - imports of the project's own pages
    elif "def register(" in shown.text or re.search(r"\bhost\.", shown.text):
        _load_as_plugin(shown.text, tmp_path)
    else:
        script = tmp_path / "snippet.py"
        script.write_text(shown.text, encoding="utf-8")
        run = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", run], capture_output=True, text=True, check=False, cwd=ROOT
        )
        assert (done.returncode, done.stderr) == (0, "")


def _load_as_plugin(text: str, folder: Path) -> None:
    """The actions that it adds are there. What is only a part of an action is put into one, which is not called."""
    if "def register(" not in text:
        part = textwrap.indent(text, " " * 8)
        text = f"def register(host):\n    def part(data, call):\n{part}\n    host.add_action('shown.part', part)\n"
    (folder / "shown_plugin.py").write_text(text, encoding="utf-8")
    path = os.pathsep.join([str(folder), str(ROOT), str(ENTRY)])
    with worker("--plugin", "shown_plugin", environment={"PYTHONPATH": path}) as started:
        there = started.call("worker.hello")["actions"]
    added = re.findall(r"""add_(?:model_)?action\(["']([\w.]+)""", text)
    assert added
    assert set(added) <= set(there)


# ---- JSON ------------------------------------------------------------------------------------------


@ids("json")
def test_json(shown: Snippet) -> None:
    """It is JSON; a request is one that its action takes, and an answer or an event has no field that it can't have."""
    actions: dict[str, str] = {}
    for line in _documents(shown.text):
        match line:
            case {"action": action, "request_id": request_id}:
                actions[request_id] = action
                Draft202012Validator(json_schema(ACTIONS[action].params.__name__)).validate(
                    line.get("data", {})
                )
            case {"event": event, "data": data}:
                _has_no_other(json_schema(EVENTS[event].__name__), data, f"{shown}: {event}")
            case {"request_id": request_id, "success": True, "data": data} if request_id in actions:
                result = ACTIONS[actions[request_id]].result.__name__
                _has_no_other(json_schema(result), data, f"{shown}: {actions[request_id]}")


def _documents(text: str) -> list[Any]:
    """Read a block: one document, or one a line."""
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]


def _has_no_other(schema: Any, data: Any, where: str) -> None:
    names = {key for key in data if key != PLACEHOLDER}
    assert names <= schema["properties"].keys(), where


def _talks() -> dict[str, list[Any]]:
    """Return what each page has its reader send, in order."""
    found: dict[str, list[Any]] = {}
    for one in snippets("json"):
        found.setdefault(one.page, []).extend(
            line for line in _documents(one.text) if isinstance(line, dict) and "action" in line
        )
    return {page: talk for page, talk in found.items() if talk}


@pytest.mark.parametrize(("page", "talk"), _talks().items(), ids=_talks())
def test_what_a_page_has_its_reader_send(page: str, talk: list[Any], tmp_path: Path) -> None:
    """A worker with a device, and folders for files, answers each line of a page in turn as something that it understands."""
    (tmp_path / "texts" / "site").mkdir(parents=True)
    folders = ("--store-folder", str(tmp_path / "kept"), "--documents-root", str(tmp_path / "texts"))
    with worker("--simulated-device", "64MiB", *folders) as started:
        for line in talk:
            reply = started.ask(line["action"], line.get("data"))
            refused = reply.get("error", {}).get("code")
            assert refused not in ("invalid_request", "unknown_action"), (page, line, reply)


def test_the_conversation_on_the_first_page() -> None:
    """The request is answered, with exactly the fields that are shown."""
    [shown] = [one for one in snippets("text") if one.page == "README.md" and one.text.startswith("→")]
    sent, answered = (json.loads(line[1:]) for line in shown.text.splitlines())
    with worker() as started:
        reply = started.ask(sent["action"], sent["data"])
    assert reply["data"].keys() == answered["data"].keys()
    assert (reply["success"], reply["data"]["actual_bytes"]) == (True, answered["data"]["actual_bytes"])


# ---- YAML ------------------------------------------------------------------------------------------


@ids("yaml")
def test_yaml(shown: Snippet) -> None:
    """It declares models or servers as the schema for editors has it."""
    declared = yaml.safe_load(shown.text)
    schema = json.loads((ROOT / "schemas" / "models.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(declared)
    assert declared.keys() & {"models", "servers"}


# ---- shell -----------------------------------------------------------------------------------------


@ids("sh")
def test_sh(shown: Snippet) -> None:
    """Each command names what there is: modules, options, extras, packages, paths."""
    for line in shown.text.splitlines():
        for words in _commands(line):
            _check(words)


def _commands(line: str) -> Iterator[list[str]]:
    """Split a line, without its comment and what is redirected."""
    words = shlex.split(line, comments=True)
    while words:
        end = next((at for at, one in enumerate(words) if one in ("&&", "|", ";", "&")), len(words))
        yield [one for one in words[:end] if one not in ("<", ">")]
        words = words[end + 1 :]


def _check(words: list[str]) -> None:
    match words:
        case [] | ["." | "cd" | "export", *_]:
            pass
        case ["pip", "install", *wanted]:
            _check_extras(wanted)
        case ["python" | "python3", "-m", "memory_worker", *arguments] | ["memory-worker", *arguments]:
            _check_options(arguments)
        case ["python" | "python3", "-m", module, *_]:
            assert module in ("venv", "pip") or (ROOT / module.replace(".", "/")).exists() or _is_file(module)
        case ["pytest", *arguments]:
            assert all((ROOT / one).exists() for one in arguments if "/" in one)
        case ["ray", "start", *arguments]:
            known = _ray_help() if find_spec("ray") else None
            assert known is None or all(one in known for one in arguments if one.startswith("--"))
        case ["ray", "get-auth-token", *_]:
            pass
        case ["dotnet", "add", "package", name, *_]:
            assert (ROOT / "csharp_host" / "src" / name).is_dir()
        case ["dotnet", ("build" | "test" | "pack" | "run"), *_] | ["mkdocs", ("build" | "serve"), *_]:
            pass
        case [program, *_]:
            assert (ROOT / program).is_file(), f"{program}: teach this test what to check of it"


def _is_file(module: str) -> bool:
    return (ROOT / f"{module.replace('.', '/')}.py").is_file()


def _check_extras(wanted: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for one in wanted:
        for extras in re.findall(r"^(?:memory-worker|\.)\[([\w,-]+)\]", one):
            assert set(extras.split(",")) <= project["optional-dependencies"].keys(), one


def _check_options(arguments: list[str]) -> None:
    tools = {"doctor", "broker", "report", "top", "simulate", "mcp", "serve", "fleet"}
    tool = [arguments[0]] if arguments and arguments[0] in tools else []
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for option in (one.strip("[]") for one in own if one.startswith(("--", "[--"))):
        known = _help(*tool) if tool != ["serve"] else _help()
        if tool == ["fleet"]:  # other options go to each node's worker
            known += _help()
        assert option.partition("=")[0] in known, f"{' '.join(arguments)}: {option}"


@cache
def _ray_help() -> str:
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@cache
def _help(*tool: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "memory_worker", *tool, "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ENTRY)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
