"""The operator's file of models: what it can say."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from protocol.model_config import models_schema
from tests.e2e.process import ROOT
from worker.core.models import ModelSpec, Placement, Role
from worker.loaders.marked_yaml import MarkedYaml
from worker.loaders.models_file import ModelConfigError, declared_models, read_models

GOOD = """\
models:
  - id: full
    path: full.safetensors
    loader: safetensors
    dtype: float16
    device: cpu
    keep_alive_seconds: -1
    pinned: true
    priority: 7
    declared_bytes: 4294967296
    offload: true
    fallback: small
    placement: map
  - {id: small, path: sub/small.pt, loader: torch, keep_alive_seconds: 0.5}
  - id: code
    loader: module
    factory: package.module:make
  - {id: theirs, external: true, declared_bytes: 10}
"""


def read(tmp_path: Path, text: str) -> tuple[ModelSpec, ...]:
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    file = tmp_path / "models.yaml"
    file.write_text(text, encoding="utf-8")
    return read_models(file, root)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ModelConfigError) as caught:
        read(tmp_path, text)
    return str(caught.value).replace(f"{tmp_path}/", "")


def one(*lines: str) -> str:
    return "models:\n  - id: a\n" + "".join(f"    {line}\n" for line in lines)


def test_every_key_is_read(tmp_path):
    """Each key of a model arrives in its spec, with defaults where it is left out."""
    full, small, code, theirs = read(tmp_path, GOOD)
    root = (tmp_path / "root").resolve()
    assert full == ModelSpec(
        "full",
        "safetensors",
        root / "full.safetensors",
        root,
        "F16",
        "cpu",
        None,
        True,
        7,
        2**32,
        True,
        "small",
        None,
        Placement.MAP,
    )
    assert small.placement is Placement.AUTO
    assert small == ModelSpec("small", "torch", root / "sub/small.pt", root, keep_alive_ns=500_000_000)
    assert (code.path, code.factory, code.keep_alive_ns) == (None, "package.module:make", 600 * 10**9)
    assert theirs.external and not small.external and theirs.declared_bytes == 10


def test_the_schema_agrees_with_the_reader(tmp_path):
    """What the JSON Schema refuses the reader refuses, and the other way round."""
    validator = jsonschema.Draft202012Validator(models_schema())
    jsonschema.Draft202012Validator.check_schema(models_schema())
    validator.validate(yaml.safe_load(GOOD))
    for bad in (
        one("path: x", "loader: torch", "pined: true"),
        one("loader: torch"),
        one("path: x", "loader: torch", "factory: a:b"),
        one("loader: module"),
        one("external: true"),
        one("external: true", "declared_bytes: 1", "path: x"),
        one("external: true", "declared_bytes: 1", "offload: true"),
        one("external: true", "declared_bytes: 1", "placement: copy"),
        one("loader: module", "factory: a:b", "placement: map"),
        one("loader: torch", "path: x", "placement: Map"),
        one("path: x", "loader: torch", "dtype: I8"),
        one("path: x", "loader: torch", "priority: '1'"),
        one("path: x", "loader: onnx", "dtype: fp16"),
        one("path: x", "loader: llama-cpp", "offload: true"),
        one("path: x", "loader: torch.jit", "placement: copy"),
    ):
        assert not validator.is_valid(yaml.safe_load(bad)), bad
        refusal(tmp_path, bad)


def test_models_by_name_with_what_people_write(tmp_path, monkeypatch):
    """Keys and values by id, sizes and times with units, other names of loaders, types, roles."""
    monkeypatch.setenv("WEIGHTS", "weights")
    monkeypatch.setenv("HOME", str(tmp_path / "root"))
    text = """\
models:
  coder: {path: $WEIGHTS/coder.safetensors, declared_bytes: 7GiB, keep_alive_seconds: 10m, dtype: fp16, aliases: [c]}
  helper: {path: ~/helper, params: {n_ctx: 8192}, keep_alive_seconds: 1h30m, preload: true}
  shards: {path: [a-1.safetensors, a-2.safetensors], loader: safetensors, fallback: c}
roles:
  code_review: {model: coder, fallbacks: [helper]}
  chat: c
"""
    coder, helper, shards = read(tmp_path, text)
    root = tmp_path / "root"
    assert (coder.path, coder.loader, coder.dtype) == (root / "weights/coder.safetensors", "auto", "F16")
    assert (coder.declared_bytes, coder.keep_alive_ns, coder.aliases) == (7 * 2**30, 600 * 10**9, ("c",))
    assert (helper.path, dict(helper.params), helper.preload) == (root / "helper", {"n_ctx": 8192}, True)
    assert helper.keep_alive_ns == 5400 * 10**9
    assert (shards.path, shards.more_paths) == (root / "a-1.safetensors", (root / "a-2.safetensors",))
    found = declared_models(tmp_path / "models.yaml", root)
    assert found.roles == (Role("code_review", "coder", ("helper",)), Role("chat", "c", ()))
    jsonschema.Draft202012Validator(models_schema()).validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "name", ["off", "no", "1", "1.5", "0x10", "null", "~", "2024-01-02", "true", "1:30", "="]
)
def test_a_name_is_the_text_that_is_written(tmp_path, name):
    """Whatever YAML takes plain text for, a model's name, alias, path, group and role are that text."""
    key = f"models:\n  {name}: {{path: x, aliases: [a], pinned: yes}}\nroles: {{{name}x: {name if name not in ('null', '~') else 'a'}}}\n"
    (spec,) = read(tmp_path, key)
    assert (spec.model_id, spec.pinned) == (name, True)
    (role,) = declared_models(tmp_path / "models.yaml", tmp_path).roles
    assert role.name == f"{name}x"
    if name in {"null", "~"}:
        return  # as a value, nothing
    row = f"[{{id: {name}, path: [{name}, {name}], aliases: [{name}a], engine_group: {name}, fallback: {name}b}}]"
    text = f"models: {row[:-1]}, {{id: {name}b, path: {name}}}]\nroles: {{r: {{model: {name}, fallbacks: [{name}b]}}}}"
    spec, other = read(tmp_path, text)
    root = tmp_path / "root"
    assert (spec.path, spec.more_paths, other.path) == (root / name, (root / name,), root / name)
    assert (spec.model_id, spec.aliases, spec.engine_group, spec.fallback) == (
        name,
        (f"{name}a",),
        name,
        f"{name}b",
    )
    assert declared_models(tmp_path / "models.yaml", root).roles == (Role("r", name, (f"{name}b",)),)


def test_anchors_and_merges_are_read(tmp_path):
    """YAML's own anchors and merges work."""
    text = """\
models:
  - &base {id: a, path: x, loader: torch, priority: 3}
  - {<<: *base, id: b}
"""
    assert [(spec.model_id, spec.priority) for spec in read(tmp_path, text)] == [("a", 3), ("b", 3)]


def test_what_a_program_writes_as_json_is_read(tmp_path):
    """Which escapes what is no ASCII, an emoji as two halves of a character."""
    text = json.dumps({"models": {"mödel 😀": {"path": "a/😀.safetensors", "aliases": ["𝒳"]}}})
    assert "\\ud83d\\ude00" in text
    (found,) = read(tmp_path, text)
    assert (found.model_id, found.path.name, found.aliases) == ("mödel 😀", "😀.safetensors", ("𝒳",))


def test_neither_yaml_nor_torch_is_imported_before_it_is_needed():
    """Importing the loaders imports none of the libraries that only some need."""
    code = (
        "import sys, worker.loaders.models_file, worker.loaders.placing, worker.loaders.tensors,"
        " worker.loaders.safetensors_loader, worker.loaders.torch_loader, worker.loaders.module_loader;"
        " print([name for name in ('yaml', 'torch', 'pydantic', 'importlib.metadata') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_file_that_the_documentation_shows_is_read(tmp_path, monkeypatch):
    """The example of the documentation is a valid file."""
    monkeypatch.setenv("WEIGHTS", "weights")
    shown = (ROOT / "docs" / "models.md").read_text().split("```yaml\n", 1)[1].split("```", 1)[0]
    specs = {spec.model_id: spec for spec in read(tmp_path, shown)}
    assert list(specs) == ["chat", "small", "embedder", "coder", "ocr", "reranker", "vision"]
    assert (
        specs["vision"].external
        and specs["small"].preload
        and dict(specs["reranker"].params) == {"n_ctx": 8192}
    )


class Counted(list):
    """A list that counts how often it was gone through."""

    walks = 0

    def __iter__(self):
        self.walks += 1
        return super().__iter__()


def test_places_in_a_long_file_are_found_without_a_walk(tmp_path):
    """Each key of each of thousands of models is asked for: the list of all of them was gone through each time."""
    file = tmp_path / "models.yaml"
    file.write_text("models:\n" + "".join(f"  m{number}: {{path: a}}\n" for number in range(50)))
    document = MarkedYaml(file)
    ((_, models),) = document._root.value
    models.value = Counted(models.value)
    assert [document.line("models", f"m{number}", "path") for number in range(50)] == list(range(2, 52))
    assert models.value.walks == 1
