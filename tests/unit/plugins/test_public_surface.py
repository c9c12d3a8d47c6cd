"""What a plugin may import, and what is said when its code fails."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

import worker.errors
import worker.plugins
from protocol.generate import ROOT
from protocol.vocabulary import ErrorCode
from worker.backends.isolation.codec import RemoteError
from worker.core.cancellation import CancelToken
from worker.core.errors import InternalError, ModelBusyError, WorkerError
from worker.plugins._guard import guarded
from worker.stream.work import Call

CALL = Call(CancelToken(lambda: 0), lambda _completed, _total: None)
PLUGINS = (
    "examples/generation/full.py",
    "examples/generation/service.py",
    "examples/generation/templates.py",
    "examples/plugins/image_blur.py",
    "examples/plugins/note_search.py",
    "examples/plugins/text_embedding.py",
    "tests/rigs/digest_plugin.py",
    "tests/rigs/following_plugin.py",
)


def test_every_name_is_there() -> None:
    """What is promised exists, and a name that is not promised is refused as of any module."""
    for name in worker.plugins.__all__:
        assert getattr(worker.plugins, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Instructor'"):
        _ = worker.plugins.Instructor
    assert worker.errors.ModelBusyError is worker.plugins.ModelBusyError


def test_every_error_a_plugin_may_meet_is_exported() -> None:
    """A plugin that leases models or checks its data can name each code that it raises or may catch."""
    of_requests_alone = {
        ErrorCode.INVALID_JSON, ErrorCode.UNKNOWN_ACTION, ErrorCode.FRAME_TOO_LARGE,
        ErrorCode.DUPLICATE_REQUEST_ID, ErrorCode.OVERLOADED, ErrorCode.SHUTTING_DOWN, ErrorCode.PLAN_STALE,
        ErrorCode.CONSUMER_NOT_FOUND, ErrorCode.OPERATION_NOT_FOUND, ErrorCode.NODE_NOT_FOUND,
    }  # fmt: skip
    exported = [getattr(worker.plugins, name) for name in worker.plugins.__all__ if name.endswith("Error")]
    assert {kind.code for kind in exported if kind is not WorkerError} == set(ErrorCode) - of_requests_alone


def test_it_can_be_imported_where_the_workers_dependencies_are_missing() -> None:
    """A device's process has an interpreter of its own; everything a plugin imports can be imported there."""
    missing = ("pydantic", "pydantic_core", "orjson", "psutil", "yaml", "torch")
    program = f"""
import sys
sys.modules.update(dict.fromkeys({missing!r}))
from worker.plugins import *
assert issubclass(ModelBusyError, WorkerError)
assert PluginHost.add_action and LeasedModel.tensors and Call and CancelToken
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_importing_it_imports_nothing_more() -> None:
    """A worker without plugins pays nothing for the names that they could import."""
    program = "import sys, worker; before = set(sys.modules); import worker.plugins; print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert [name for name in done.stdout.split() if name.startswith(("worker", "protocol"))] == [
        "worker.plugins"
    ]


@pytest.mark.parametrize("name", PLUGINS)
def test_plugins_import_nothing_else_of_the_worker(name: str) -> None:
    """What the project's own plugins need is part of the public surface."""
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    found = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    assert [module for module in found if module.split(".")[0] in {"worker", "protocol"}] == [
        "worker.plugins"
    ]


@pytest.mark.parametrize("package", ["worker", "protocol"])
def test_types_are_published(package: str) -> None:
    """A type checker reads the annotations of an installed worker."""
    assert (Path(ROOT) / package / "py.typed").exists()


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (KeyError("x"), "KeyError"),
        (SystemExit(3), "SystemExit"),
        (RemoteError("ZeroDivisionError", "division", None), "ZeroDivisionError"),
    ],
)
def test_a_plugins_own_error_is_the_plugins(
    raised: BaseException, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Anything that has no wire code is an internal error by the plugin's name; the log has the traceback."""

    def run(_data: dict[str, Any], _call: Call) -> Any:
        raise raised

    with pytest.raises(
        InternalError, match=f"^the plugin's action raised {kind}; it is of my.plugin"
    ) as caught:
        guarded(run, "my.action", "my.plugin")({}, CALL)
    assert caught.value.code is ErrorCode.INTERNAL_ERROR
    assert "a bug in the worker" not in caught.value.message
    line = orjson.loads(capfd.readouterr().err)
    assert (line["plugin"], line["action"]) == ("my.plugin", "my.action")
    assert line["error_id"] == caught.value.details["error_id"]
    assert "Traceback" in line["traceback"]


def test_an_error_with_a_wire_code_goes_on() -> None:
    """What a plugin raises on purpose, or a lease raises in it, is answered as it is."""

    def run(_data: dict[str, Any], _call: Call) -> Any:
        raise ModelBusyError("in use")

    with pytest.raises(ModelBusyError):
        guarded(run, "a", "p")({}, CALL)


def test_what_is_no_json_is_the_plugins_fault() -> None:
    """A result that can't be written is said to be the plugin's, before any of it is."""
    assert (
        orjson.dumps(guarded(lambda _data, _call: {"a": [1, None]}, "a", "p")({}, CALL)) == b'{"a":[1,null]}'
    )
    with pytest.raises(InternalError, match="^the plugin's action returned what is no JSON: .*set"):
        guarded(lambda _data, _call: {"a": {1}}, "a", "p")({}, CALL)
