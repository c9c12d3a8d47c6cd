"""A llama.cpp session from its opening to its end."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")

from tests.rigs.gguf_models import write_llama
from tests.rigs.prefix_caching import opened
from tests.unit.stores.stores import World
from worker.backends.engines.llama_server import ServerHttp


@pytest.mark.parametrize("params", [{}, {"prefix_cache": 0}])
def test_a_model_is_open_once_its_loop_has_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: dict[str, Any]
) -> None:
    """The library's server, dropped before its loop began, waits for the loop's end for ever: so an unload might."""
    asked: list[str] = []
    ask = ServerHttp.ask

    def noting(self: ServerHttp, method: str, path: str, body: Any) -> Any:
        answer = ask(self, method, path, body)
        asked.append(path)
        return answer

    monkeypatch.setattr(ServerHttp, "ask", noting)
    with opened(write_llama(tmp_path / "m.gguf", context=1024), World().stores, **params):
        assert asked == ["/slots/0?action=erase"]
