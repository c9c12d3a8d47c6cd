"""A plugin that can't be used is named with what it raised."""

from pathlib import Path

import pytest

from worker.plugins._loading import PluginError, load_plugins


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('no weights here')", "SystemExit: no weights here"),
        ("def register(host): raise SystemExit(0)", "SystemExit: 0"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
    ids=["ends", "ends_later", "fails"],
)
def test_one_that_ends_or_fails_as_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, code: str, said: str
) -> None:
    """It does not end the worker in its own way: with a status of 0, say, or without a word."""
    name = f"plugin_that_{request.node.callspec.id}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match=f"{name}: {said}"):
        load_plugins([name], lambda actions: actions)


@pytest.mark.parametrize("name", ["plugin.py", "./plugin", "folder/plugin", "{folder}/plugin.py"])
def test_a_file_in_place_of_a_module(tmp_path: Path, name: str) -> None:
    """It is told by what name the module goes, and how it is found."""
    name = name.format(folder=tmp_path)
    with pytest.raises(PluginError) as refused:
        load_plugins([name], lambda actions: actions)
    assert str(refused.value) == (
        f"{name}: it is a file's name: give the module's, plugin, as import does, and have its folder on PYTHONPATH, or start the"
        " worker in it"
    )
