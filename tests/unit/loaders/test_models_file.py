"""The operator's file of models: what it can say, and how it is told what is wrong with it."""

import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from protocol.model_config import models_schema
from worker.core.models import ModelSpec, Placement
from worker.loaders.models_file import ModelConfigError, read_models

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
    validator = jsonschema.Draft202012Validator(models_schema())
    jsonschema.Draft202012Validator.check_schema(models_schema())
    validator.validate(yaml.safe_load(GOOD))
    for bad in (
        one("path: x", "loader: torch", "pined: true"),
        one("path: x"),
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
    ):
        assert not validator.is_valid(yaml.safe_load(bad)), bad
        refusal(tmp_path, bad)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "models.yaml:1: it is empty"),
        ("[]", "models.yaml:1: the file: must be keys and values, not []"),
        ("models: 3", "models.yaml:1: models: input should be a valid list, not 3"),
        (
            "model: []",
            "models.yaml:1: model: is no known key; the nearest is 'models'\nmodels.yaml:1: models: is missing",
        ),
        ("models: [3]", "models.yaml:1: models[0]: must be keys and values, not 3"),
        (
            one("path: x", "loader: torch", "keep_alive: 5"),
            "models.yaml:5: models[0].keep_alive: is no known key; the nearest is 'keep_alive_seconds'",
        ),
        ("models:\n  - path: x\n    loader: torch\n", "models.yaml:2: models[0].id: is missing"),
        (
            one("path: x", "loader: torch", "pinned: 1"),
            "models.yaml:5: models[0].pinned: input should be a valid boolean, not 1",
        ),
        (
            one("path: x", "loader: torch", "device:"),
            "models.yaml:5: models[0].device: input should be a valid string, not null",
        ),
        (
            one("path: x", "loader: torch", "keep_alive_seconds: -0.5"),
            "models.yaml:5: models[0].keep_alive_seconds: is between -1 (until evicted) and 0",
        ),
        (
            one("path: x", "loader: torch", "keep_alive_seconds: .nan"),
            "models.yaml:5: models[0].keep_alive_seconds: input should be a finite number, not nan",
        ),
        (one("path: x"), "models.yaml:2: models[0].loader: is missing"),
        (one("loader: torch"), "models.yaml:2: models[0].path: is missing"),
        (
            one("path: x", "loader: gguf"),
            "models.yaml:4: models[0].loader: no loader 'gguf'; there are safetensors, torch, module",
        ),
        (one("loader: module"), "models.yaml:2: models[0].factory: is missing; the loader module needs one"),
        (
            one("path: x", "loader: torch", "factory: a:b"),
            "models.yaml:5: models[0].factory: is for the loader module only",
        ),
        (
            one("external: true"),
            "models.yaml:2: models[0].declared_bytes: is needed with external: true: nothing else tells its size",
        ),
        (
            one("external: true", "declared_bytes: 1", "loader: torch"),
            "models.yaml:5: models[0].loader: has no meaning with external: true",
        ),
        (
            one("path: x", "loader: torch", "id: b"),
            "models.yaml:5: key 'id' is there twice, first in line 2",
        ),
        (
            one("path: x", "loader: torch") + "  - {id: a, path: y, loader: torch}\n",
            "models.yaml:5: models[1].id: 'a' is the id of models[0] already",
        ),
        (
            one("path: x", "loader: torch", "fallback: aa"),
            "models.yaml:5: models[0].fallback: no model 'aa'; the nearest is 'a'",
        ),
        (
            one("path: x", "loader: torch", "fallback: a"),
            "models.yaml:5: models[0].fallback: goes round in a circle: a -> a",
        ),
        (
            one("path: x", "loader: torch", "fallback: b")
            + "  - {id: c, path: x, loader: torch, fallback: b}\n"
            + "  - {id: b, path: y, loader: torch, fallback: a}\n",
            "models.yaml:5: models[0].fallback: goes round in a circle: a -> b -> a",
        ),
        (
            "models:\n  - !!python/object/apply:os.system ['true']\n",
            (
                "models.yaml:2: could not determine a constructor for the tag"
                " 'tag:yaml.org,2002:python/object/apply:os.system'"
            ),
        ),
        (
            "models: []\n--- \nmodels: []\n",
            "models.yaml:2: expected a single document in the stream: but found another document",
        ),
        ("models: [\n", None),
        ("models: " + "[" * 5000, "models.yaml: it nests too deep"),
        ("models:\n - \x07", "models.yaml:2: character 0x7 is not allowed"),
        ("models: &a [*a]", None),
        ("models:\n  - id: 2024-13-45\n", None),
        ("? [a, b]\n: 3", None),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_key(tmp_path, text, told):
    found = refusal(tmp_path, text)
    assert found.startswith("models.yaml")
    if told is not None:
        assert found == told


def test_all_problems_come_at_once(tmp_path):
    text = one("path: ../x", "loader: nosuch") + "  - {id: a, path: y, loader: torch, fallback: q}\n"
    assert [line.split(":")[1] for line in refusal(tmp_path, text).splitlines()] == ["3", "4", "5", "5"]


def test_anchors_and_merges_are_read(tmp_path):
    text = """\
models:
  - &base {id: a, path: x, loader: torch, priority: 3}
  - {<<: *base, id: b}
"""
    assert [(spec.model_id, spec.priority) for spec in read(tmp_path, text)] == [("a", 3), ("b", 3)]


def test_paths_that_lead_out_of_the_root_are_refused(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside.pt").touch()
    (root / "link.pt").symlink_to(tmp_path / "outside.pt")
    (root / "folder").symlink_to(tmp_path, target_is_directory=True)
    (root / "loop").symlink_to(root / "loop")
    (root / "inside.pt").symlink_to(root / "real.pt")
    for path in (
        "../outside.pt",
        str(tmp_path / "outside.pt"),
        "link.pt",
        "folder/outside.pt",
        ".",
        "",
        "a/../..",
        "/",
    ):
        found = refusal(tmp_path, one(f"path: '{path}'", "loader: torch"))
        assert found.startswith("models.yaml:3: models[0].path: "), path
    assert "is not below the model root" in refusal(tmp_path, one("path: link.pt", "loader: torch"))
    assert "can't be followed" in refusal(tmp_path, one("path: loop/x", "loader: torch"))
    refusal(tmp_path, one('path: "a\\0b"', "loader: torch"))
    for path in ("inside.pt", "not/yet/there.pt", "sub/../real.pt", str(root / "real.pt")):
        assert len(read(tmp_path, one(f"path: {path}", "loader: torch"))) == 1


def test_a_missing_file_and_one_that_is_no_text(tmp_path):
    with pytest.raises(ModelConfigError, match="No such file"):
        read_models(tmp_path / "none.yaml", tmp_path)
    (tmp_path / "models.yaml").write_bytes(b"models:\n  - id: \xff\n")
    with pytest.raises(ModelConfigError, match="models.yaml:2: it is not UTF-8: byte 0xff"):
        read_models(tmp_path / "models.yaml", tmp_path)


def test_neither_yaml_nor_torch_is_imported_before_it_is_needed():
    code = (
        "import sys, worker.loaders.models_file, worker.loaders.placing, worker.loaders.tensors,"
        " worker.loaders.safetensors_loader, worker.loaders.torch_loader, worker.loaders.module_loader;"
        " print([name for name in ('yaml', 'torch', 'pydantic', 'importlib.metadata') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
