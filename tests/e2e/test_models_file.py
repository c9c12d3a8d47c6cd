"""The operator's file of models as a host and doctor see it: what of it is wrong is told, and it is read again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.process import MIB, ROOT, eventually, worker
from tests.rigs import onnx_files
from tests.rigs.gguf_models import write_llama
from tests.rigs.model_files import write_model


def test_a_file_that_is_no_list_of_models_is_refused_at_the_start(tmp_path: Path) -> None:
    """Exit code 2, and a message that says where."""
    (tmp_path / "models.yaml").write_text("models: [\n")
    done = subprocess.run(
        [sys.executable, "-m", "worker", "--models", str(tmp_path / "models.yaml")],
        cwd=ROOT, input=b"", capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "models.yaml:2: " in done.stderr.decode()


def test_what_is_wrong_with_one_model_is_that_ones_alone(tmp_path: Path) -> None:
    """It is listed with the reason before it is asked for, and all others work."""
    root = tmp_path / "root"
    root.mkdir()
    write_model(root / "good.safetensors", 4096)
    write_model(tmp_path / "outside.safetensors", 4096)
    (root / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (root / "page.safetensors").write_text("<!DOCTYPE html><html>" * 9)
    (tmp_path / "models.yaml").write_text(
        "models:\n"
        "  link: {path: link.safetensors}\n"
        "  far: {path: good.safetensors, device: 'cuda:7'}\n"
        "  page: {path: page.safetensors, loader: safetensors}\n"
        "  engine: {path: good.safetensors, loader: llama-cpp}\n"
        "  odd: {path: good.safetensors, pined: true}\n"
        "  good: {path: good.safetensors}\n"
        "  5: {path: good.safetensors, id: []}\n"
    )
    told = {
        "link": "is not below the model root", "far": "it is for cuda:7", "page": "it is a web page",
        "engine": "it is no gguf file", "odd": "pined: is no known key; the nearest is 'pinned'",
        "5": "id: input should be a valid string",
    }  # fmt: skip
    with worker("--models", str(tmp_path / "models.yaml"), "--model-root", str(root)) as started:
        rows = {row["model_id"]: row for row in started.call("memory.get_model_status")["models"]}
        for model_id, reason in told.items():
            assert reason in rows[model_id]["state_reason"], model_id
            error = started.refused("memory.load_model", {"model_id": model_id})
            assert error["code"] == "model_load_failed", error
            assert reason in error["message"]
        assert rows["good"]["state_reason"] is None
        assert rows["good"]["estimated_bytes"] == 4096
        assert started.call("memory.load_model", {"model_id": "good"})["state"] == "loaded"


def test_models_by_name_with_roles_params_and_preload(tmp_path: Path) -> None:
    """A role is used like a model, falls back on its own line, and a model may be there from the start."""
    for name, size in (("big", 8), ("small", 1), ("first", 1)):
        write_model(tmp_path / f"{name}.safetensors", size * MIB)
    (tmp_path / "makes_models.py").write_text("def make(n_ctx, device_id):\n    return bytearray(n_ctx)\n")
    (tmp_path / "models.yaml").write_text(
        "models:\n"
        "  big: {path: big.safetensors, device: 'sim:0', aliases: [b]}\n"
        "  small: {path: small.safetensors, device: 'sim:0'}\n"
        "  first: {path: first.safetensors, device: cpu, preload: true, keep_alive_seconds: 10m}\n"
        "  made: {factory: 'makes_models:make', params: {n_ctx: 4096}}\n"
        "roles:\n"
        "  code_review: {model: b, fallbacks: [small]}\n"
    )
    with worker(
        "--models",
        str(tmp_path / "models.yaml"),
        "--simulated-device",
        "4MiB",
        environment={"PYTHONPATH": str(tmp_path)},
    ) as started:

        def state(model_id: str) -> str:
            return str(started.call("memory.get_model_status", {"model_id": model_id})["models"][0]["state"])

        eventually(lambda: state("first") == "loaded", "it is preloaded")
        loaded = started.call("memory.load_model", {"model_id": "code_review"})
        assert (loaded["model_id"], loaded["requested_model_id"]) == ("small", "code_review")
        assert "'code_review' does not fit" in loaded["fallback_reason"]
        assert started.call("memory.load_model", {"model_id": "made"})["state"] == "loaded"
        error = started.refused("memory.load_model", {"model_id": "nosuch"})
        assert "code_review" in error["message"]


def test_doctor_checks_a_file_of_models(tmp_path: Path) -> None:
    """Each model with its size, or why it can't be loaded; then the exit code is 1."""
    write_model(tmp_path / "good.safetensors", 4096)
    (tmp_path / "models.yaml").write_text(
        'models: {good: {path: good.safetensors}, gone: {path: gone.pt}, "o\\e[31md": {path: "a\\nb"}}'
    )
    command = [sys.executable, "-m", "memory_worker", "doctor", "--models", str(tmp_path / "models.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)
    assert done.returncode == 1
    assert "model good  4,096 bytes, for the loader safetensors" in done.stdout
    assert "gone.pt: there is no such file: correct its path, or put it there" in done.stdout
    assert "model o\\u001b[31md  CAN'T BE LOADED: " in done.stdout  # nothing that a terminal obeys
    assert "a\\u000ab: there is no such file" in done.stdout


def test_a_role_of_no_model_is_told_by_whatever_is_asked(tmp_path: Path) -> None:
    """The doctor ends with 1 and a line, health is degraded, and reading the file again refuses the role by its name."""
    write_model(tmp_path / "kept.safetensors", 4096)
    listed = tmp_path / "models.yaml"
    listed.write_text(
        "models: {kept: {path: kept.safetensors}}\n"
        "roles: {bad: {model: nothere}, late: {model: kept, fallbacks: [kep]}, odd: {modl: kept}, good: kept}\n"
    )
    reasons = {
        "bad": "can't be used as a role: no model 'nothere'; the nearest is 'kept'",
        "late": "can't be used as a role: no model 'kep'; the nearest is 'kept'",
        "odd": "can't be used as a role: model: is missing; modl: is no known key; the nearest is 'model'",
    }
    command = [sys.executable, "-m", "memory_worker", "doctor", "--models", str(listed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)
    assert done.returncode == 1
    for name, reason in reasons.items():
        assert f"role {name}  {reason}\n" in done.stdout
    done = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, check=False, text=True)
    assert done.returncode == 1
    assert {each["name"]: each["reason"] for each in json.loads(done.stdout)["refused_roles"]} == reasons
    with worker("--models", str(listed)) as started:

        def health() -> tuple[str, str | None]:
            rows = {each["name"]: each for each in started.call("worker.get_health")["parts"]}
            return rows["models"]["state"], rows["models"]["reason"]

        assert health() == ("degraded", f"3 can't be loaded or were lost; bad: {reasons['bad']}")
        error = started.refused("memory.load_model", {"model_id": "bad"})
        assert error["message"] == f"no model 'bad': it {reasons['bad']}"
        found = started.call("memory.reload_models")["refused"]
        assert {each["model_id"]: each["reason"] for each in found} == reasons
        assert started.call("memory.load_model", {"model_id": "good"})["model_id"] == "kept"
        assert started.call("memory.unload_model", {"model_id": "good"})["model_id"] == "kept"
        assert (
            started.call("memory.unload_model", {"model_id": "good"})["model_id"] == "kept"
        )  # unloaded by then
        listed.write_text("models: {kept: {path: kept.safetensors}}\nroles: {good: kept}\n")
        assert started.call("memory.reload_models")["refused"] == []
        assert health() == ("ok", None)


def test_a_bad_file_or_none_in_the_place_of_a_loaded_models_is_told(tmp_path: Path) -> None:
    """The model stays loaded and is used; its reason and health say what is wrong, until the file is a good one."""
    path, page, good = (tmp_path / name for name in ("m.safetensors", "page", "good"))
    write_model(path, 4096)
    write_model(good, 8192)
    page.write_text("<!DOCTYPE html><html>not found</html>")
    (tmp_path / "models.yaml").write_text("models: {m: {path: m.safetensors}}")
    with worker("--models", str(tmp_path / "models.yaml")) as started:
        started.call("memory.load_model", {"model_id": "m"})
        page.replace(path)
        again = started.call("memory.load_model", {"model_id": "m"})
        assert (again["state"], again["load_count"]) == ("loaded", 1)
        assert again["state_reason"].startswith("its new file can't be loaded: ")
        assert "it is a web page" in again["state_reason"]
        assert started.call("worker.get_health")["state"] == "degraded"
        good.replace(path)
        again = started.call("memory.load_model", {"model_id": "m"})
        assert (again["load_count"], again["state_reason"]) == (2, None)
        assert started.call("worker.get_health")["state"] == "ok"
        away = path.rename(tmp_path / "away")
        again = started.call("memory.load_model", {"model_id": "m"})
        assert (again["state"], again["load_count"]) == ("loaded", 2)
        assert again["state_reason"].startswith("its file can't be found any more")
        assert started.call("worker.get_health")["state"] == "degraded"
        away.rename(path)
        assert started.call("memory.load_model", {"model_id": "m"})["state_reason"] is None


def test_a_file_that_was_written_to_is_loaded_at_the_next_use(tmp_path: Path) -> None:
    """As by cp over it: what is whole is loaded, half of it is told, and the old one stays until it is all there."""
    path, good = tmp_path / "m.safetensors", tmp_path / "good"
    write_model(path, 4096)
    write_model(good, 8192)
    whole = good.read_bytes()
    (tmp_path / "models.yaml").write_text("models: {m: {path: m.safetensors, placement: copy}}")
    with worker("--models", str(tmp_path / "models.yaml")) as started:

        def load() -> tuple[int, int, str | None]:
            found = started.call("memory.load_model", {"model_id": "m"})
            return found["load_count"], found["estimated_bytes"], found["state_reason"]

        assert load() == (1, 4096, None)
        path.write_bytes(whole[:-100])
        count, size, reason = load()
        assert (count, size) == (1, 4096)
        assert reason is not None and reason.startswith("its new file can't be loaded: ")
        path.write_bytes(whole)
        assert load() == (2, 8192, None)
        assert load() == (2, 8192, None)


def test_doctor_checks_what_a_load_would(tmp_path: Path) -> None:
    """Providers and GPUs that a library has not, factories and placements that fail: told as a load tells them."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("xllamacpp")
    (tmp_path / "m.onnx").write_bytes(onnx_files.scaling(100))
    write_llama(tmp_path / "m.gguf")
    write_model(tmp_path / "m.safetensors", 4096, dtype="F32")
    (tmp_path / "models.yaml").write_text(
        "models:\n"
        "  provider: {path: m.onnx, params: {providers: [qnn, cpu]}}\n"
        "  mapped: {path: m.safetensors, placement: map, dtype: fp16}\n"
        "  absent: {factory: 'no_such_module:make', preload: true}\n"
        "  wanting: {factory: 'json:loads', loader: module}\n"
        "  layers: {path: m.gguf, params: {n_gpu_layers: -1}}\n"
        "  plain: {path: m.onnx}\n"
    )
    command = (sys.executable, "-m", "memory_worker")
    done = subprocess.run(
        [*command, "doctor", "--json", "--models", str(tmp_path / "models.yaml")],
        cwd=ROOT, capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    rows = {each["model_id"]: each for each in json.loads(done.stdout)["models"]}
    with worker("--models", str(tmp_path / "models.yaml"), command=command) as started:
        for model_id in ("provider", "mapped", "absent", "wanting"):
            told = started.refused("memory.load_model", {"model_id": model_id})["details"]
            path = "" if told["path"] is None else f"{told['path']}: "
            assert rows[model_id]["state_reason"] == f"{path}{told['cause']}"
        for model_id in ("layers", "plain"):
            assert started.call("memory.load_model", {"model_id": model_id})["state"] == "loaded"
            assert rows[model_id]["state_reason"] is None
        (note,) = [json.loads(each) for each in started.stderr().splitlines() if "has no effect" in each]
        assert (note["level"], note["model_id"]) == ("warning", "layers")
    assert rows["absent"]["state_reason"].endswith(
        "no module 'no_such_module'; install it, or start the worker in the folder that has it"
    )
    assert rows["plain"]["notes"] == []
    assert "params.n_gpu_layers has no effect: llama.cpp, as xllamacpp" in rows["layers"]["notes"][0]


def test_the_file_of_models_is_read_again(tmp_path: Path) -> None:
    """What is declared as before stays loaded; what is not is loaded anew, added or gone; a bad file changes nothing."""
    for name in ("kept", "changed", "gone", "new"):
        write_model(tmp_path / f"{name}.safetensors", MIB, MIB)
    listed = tmp_path / "models.yaml"

    def declare(*lines: str) -> None:
        listed.write_text("models:\n" + "".join(f"  {each}\n" for each in lines) + "roles: {main: kept}\n")

    declare(
        "kept: {path: kept.safetensors}",
        "changed: {path: changed.safetensors}",
        "gone: {path: gone.safetensors}",
    )
    with worker("--models", str(listed)) as started:
        for name in ("kept", "changed", "gone"):
            started.call("memory.load_model", {"model_id": name})
        declare(
            "kept: {path: kept.safetensors, keep_alive_seconds: 5m}", "changed: {path: new.safetensors}",
            "new: {path: new.safetensors}", "odd: {path: new.safetensors, pined: true}",
        )  # fmt: skip
        found = started.call("memory.reload_models")
        assert (found["added"], found["removed"], found["kept"]) == (["new"], ["gone"], [])
        assert found["changed"] == ["kept", "changed"]
        assert [row["model_id"] for row in found["refused"]] == ["odd"]
        rows = {row["model_id"]: row for row in started.call("memory.get_model_status")["models"]}
        assert {name: row["state"] for name, row in rows.items()} == {
            "kept": "loaded", "changed": "unloaded", "new": "unloaded", "odd": "failed",
        }  # fmt: skip
        assert (rows["kept"]["load_count"], rows["kept"]["keep_alive_ms"]) == (1, 300_000)
        assert started.refused("memory.load_model", {"model_id": "gone"})["code"] == "model_not_found"
        assert started.call("memory.load_model", {"model_id": "main"})["load_count"] == 1
        assert started.call("memory.load_model", {"model_id": "changed"})["load_count"] == 2
        listed.write_text("models: [")
        assert started.refused("memory.reload_models")["code"] == "model_load_failed"
        assert len(started.call("memory.get_model_status")["models"]) == 4
        declare("kept: {path: kept.safetensors, pined: 1}")
        found = started.call("memory.reload_models")
        assert (found["refused"][0]["model_id"], found["removed"]) == ("kept", ["changed", "new", "odd"])
        assert started.call("memory.load_model", {"model_id": "kept"})["load_count"] == 1
