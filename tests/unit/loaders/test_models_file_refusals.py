"""What is wrong with the operator's file of models is told with its line and key."""

import json
import os
import select
import sys
import threading

import pytest

from tests.unit.loaders.test_models_file import one, read, refusal
from worker.loaders import marked_yaml
from worker.loaders.models_file import ModelConfigError, declared_models, read_models


@pytest.mark.parametrize("loader", ["onnx", "onnxruntime", "gguf", "llama-cpp", "torch.jit"])
@pytest.mark.parametrize("line", ["dtype: fp16", "offload: true", "placement: map"])
def test_what_means_nothing_to_an_engine_is_refused(tmp_path, loader, line):
    """A cast, an offload and a placement that its library would not follow are told, not passed over."""
    key = line.partition(":")[0]
    told = refusal(tmp_path, one("path: x", f"loader: {loader}", line))
    assert f"models[0].{key}: has no meaning for an engine's model: " in told
    plain = one("path: x", f"loader: {loader}", "offload: false", "placement: auto")
    assert len(read(tmp_path, plain)) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "models.yaml:1: it is empty"),
        ("[]", "models.yaml:1: the file: must be keys and values, not []"),
        ("models: 3", "models.yaml:1: models: input should be a valid list, or keys and values by id, not 3"),
        (
            "model: []",
            "models.yaml:1: model: is no known key; the nearest is 'models'",
        ),
        ("version: 2", "models.yaml:1: version: is no known key; there are models, roles, servers"),
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
            "models.yaml:5: models[0].keep_alive_seconds: input should be a finite number, not .nan",
        ),
        (one("loader: torch"), "models.yaml:2: models[0].path: is missing"),
        (
            one("path: x", "loader: gguff"),
            "models.yaml:4: models[0].loader: no loader 'gguff'; there are safetensors, torch, module, onnx, gguf, torch.jit",
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
        (
            'models:\n  - {id: "a\\ud800", loader: torch, path: x}\n',
            "models.yaml:2: \\ud800 is half of a character; write the whole one, as itself or \\U…",
        ),
        ("models: &a [*a]", None),
        ("models:\n  - id: 2024-13-45\n", None),
        ("? [a, b]\n: 3", None),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_key(tmp_path, text, told):
    """Every refusal names file, line and key, in words."""
    found = refusal(tmp_path, text)
    assert found.startswith("models.yaml")
    if told is not None:
        assert found == told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "declared_bytes: 7 gigs",
            "declared_bytes: input should be whole bytes from 0 to 9223372036854775807, such as 4096 or 7GiB, not '7 gigs'",
        ),
        (
            "keep_alive_seconds: soon",
            "keep_alive_seconds: input should be seconds, or a time such as 10m or 1h30m",
        ),
        (
            "path: []",
            "path: input should be a path of up to 4096 characters, none of them NUL, or a list of such",
        ),
        (
            "path: https://huggingface.co/org/name/resolve/main/m.gguf",
            (
                "path: https://huggingface.co/org/name/resolve/main/m.gguf is an address, and nothing is downloaded: "
                "download the file, and declare where it lies"
            ),
        ),
        ("path: $NO_SUCH_VARIABLE/x", "path: $NO_SUCH_VARIABLE/x: $NO_SUCH_VARIABLE is not set"),
        (
            "loader: keras",
            "loader: no loader 'keras'; there are safetensors, torch, module, onnx, gguf, torch.jit",
        ),
        ("aliases: [a]", "aliases[0]: 'a' is a name of models[0] already"),
    ],
)
def test_what_is_wrong_with_one_model_refuses_that_one(tmp_path, line, told):
    """The other models of the file work; the refused one has its reason."""
    rest = "path: x" if not line.startswith("path") else "loader: torch"
    text = one(rest, line) + "  - {id: good, path: y, loader: torch}\n"
    (tmp_path / "models.yaml").write_text(text)
    found = declared_models(tmp_path / "models.yaml", tmp_path)
    bad, good = found.specs
    assert bad.model_id == "a" and told in bad.refused and told in "\n".join(found.problems)
    assert (good.model_id, good.refused) == ("good", None)


def test_what_is_wrong_below_such_a_name_is_told_in_its_line(tmp_path):
    """A refused model goes by its name in the file, and a value is quoted as it stands there."""
    text = "models:\n  off: {path: x, pined: 1}\n  jit:\n  s: x.pt\n  d: {path: x, pinned: 2024-01-01}\n  '1': {path: x}\n  1: {}"
    assert refusal(tmp_path, text) == "models.yaml:7: key '1' is there twice, first in line 6"
    lines = refusal(tmp_path, text.rpartition("\n")[0]).splitlines()
    assert lines == [
        "models.yaml:2: models.off.pined: is no known key; the nearest is 'pinned'",
        "models.yaml:3: models.jit: must be keys and values, not null",
        "models.yaml:4: models.s: must be keys and values, such as {path: …}, not 'x.pt'",
        "models.yaml:5: models.d.pinned: input should be a valid boolean, not 2024-01-01",
    ]
    found = declared_models(tmp_path / "models.yaml", tmp_path)
    assert [each.model_id for each in found.specs] == ["off", "jit", "s", "d", "1"]


@pytest.mark.parametrize(
    "size",
    ["10m", "-1", "1e999", "1.0e+999", "99999999999999TiB", "1.5", "36893488147419103232", "off", ".nan"],
)
def test_a_size_that_is_none_is_told_with_the_limits(tmp_path, size):
    """Negative, fractional, infinite and too large sizes, and those of no known unit, are refused in the same words."""
    told = refusal(tmp_path, one("path: x", f"declared_bytes: {size}"))
    want = "input should be whole bytes from 0 to 9223372036854775807, such as 4096 or 7GiB, not"
    assert told.replace("'", "") == f"models.yaml:4: models[0].declared_bytes: {want} {size}"


def test_a_model_whose_id_is_wrong_is_listed_by_its_place(tmp_path):
    """A model that cannot be named is still listed, by where it stands in the file."""
    text = "models: [{id: {}, path: x}, {id: a, path: x}, {id: a, path: y}, 7]"
    (tmp_path / "models.yaml").write_text(text)
    found = declared_models(tmp_path / "models.yaml", tmp_path)
    assert [each.model_id for each in found.specs] == ["models[0]", "a", "models[2]", "models[3]"]
    assert [each.refused is None for each in found.specs] == [False, True, False, False]


def test_roles_that_stand_for_nothing_are_told(tmp_path):
    """A role whose model or fallback is not there is refused by name."""
    text = "models: {a: {path: x, loader: torch}}\nroles: {a: a, r: {model: b}, s: {model: a, fallbacks: [c]}, t: 5}"
    lines = refusal(tmp_path, text).splitlines()
    assert len(lines) == 4
    assert "'a' is a name of model 'a' already" in lines[0]
    assert "no model 'b'; the nearest is 'a'" in lines[1]
    roles = declared_models(tmp_path / "models.yaml", tmp_path).roles
    assert [each.name for each in roles if each.refused is not None] == ["a", "r", "s", "t"]


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x]\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)},*{chr(97 + n)}]\n" for n in range(24)),
        "a: &a {x: 1}\n" + "".join(f"b{n}: &b{n} {{<<: [*{'a' if not n else f'b{n - 1}'}, *{'a' if not n else f'b{n - 1}'}]}}\n" for n in range(30)),
        "models: 0x" + "f" * 5000,
        "models: " + "9" * 5000,
        "models: " + ":".join(["1"] * 5000),
    ],
)  # fmt: skip
def test_a_small_file_that_stands_for_much_is_refused_at_once(tmp_path, text):
    """Aliases and chains that would grow are refused before they do."""
    assert "stand for more than" in (found := refusal(tmp_path, text)) or "a number of more than" in found


def test_long_chains_of_fallbacks_and_many_wrong_names_take_little(tmp_path):
    """Each model is walked over once; names are looked for among few."""
    count = 3000
    chain = {f"m{n}": {"path": "x", "loader": "torch", "fallback": f"m{n + 1}"} for n in range(count)}
    chain[f"m{count}"] = {"path": "x", "loader": "torch", "fallback": "m0"}
    lines = refusal(tmp_path, json.dumps({"models": chain})).splitlines()
    assert len(lines) == 1 and "goes round in a circle: m0 -> m1 -> " in lines[0]
    wrong = {f"m{n}": {"path": "x", "loader": "torch", "fallback": f"w{n}"} for n in range(count)}
    lines = refusal(tmp_path, json.dumps({"models": wrong})).splitlines()
    assert len(lines) == 101 and lines[-1].endswith(f"and {count - 100} more")


def test_all_problems_come_at_once(tmp_path):
    """One reading tells all problems, in the order of their lines."""
    text = one("path: ../x", "loader: nosuch") + "  - {id: a, path: y, loader: torch, fallback: q}\n"
    assert [line.split(":")[1] for line in refusal(tmp_path, text).splitlines()] == ["3", "4", "5", "5"]


def test_paths_that_lead_out_of_the_root_are_refused(tmp_path):
    """Neither dots, absolute paths nor links lead out of the model root."""
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
    """A file that is not there, or is not UTF-8, is an error in words."""
    with pytest.raises(ModelConfigError, match="none.yaml: there is no such file: "):
        read_models(tmp_path / "none.yaml", tmp_path)
    (tmp_path / "models.yaml").write_bytes(b"models:\n  - id: \xff\n")
    with pytest.raises(ModelConfigError, match="models.yaml:2: it is not UTF-8: byte 0xff"):
        read_models(tmp_path / "models.yaml", tmp_path)


def test_a_file_whose_name_has_a_dollar_is_one(tmp_path, monkeypatch):
    """It is looked for where the model's path leads, whatever folder the worker was started in."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a$b.pt").touch()
    (tmp_path / "models.yaml").write_text(
        f"models:\n  a: {{path: a$b.pt}}\n  b: {{path: $NO_SUCH.pt}}\n  c: {{path: $NO{'x' * 300}}}\n"
    )
    monkeypatch.chdir(tmp_path)
    found = declared_models(tmp_path / "models.yaml", tmp_path / "models")
    assert [each.refused is None for each in found.specs] == [True, False, False]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes with names as POSIX has them")
def test_a_pipe_is_read_and_never_waited_for_without_end(tmp_path, monkeypatch):
    """As a shell's ``<(...)`` is one; where nobody writes, or a writer is silent, it is told."""
    monkeypatch.setattr(marked_yaml, "_SILENCE_SECONDS", 0.01)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ModelConfigError, match="nobody wrote into it: name a file"):
        read_models(path, tmp_path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # so that the writer can begin
    with path.open("wb", buffering=0):
        os.close(reading)
        with pytest.raises(ModelConfigError, match="whose writer writes nothing"):
            read_models(path, tmp_path)
    monkeypatch.setattr(marked_yaml, "_SILENCE_SECONDS", 20)
    writer = threading.Thread(target=lambda: path.write_text("models:\n  a: {path: x}\n"))
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer.start()
    select.select((reading,), (), ())
    assert [each.model_id for each in read_models(path, tmp_path)] == ["a"]
    os.close(reading)
    writer.join()
