"""llama.cpp through xllamacpp, in an engine's process."""

import contextlib
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import xllamacpp

from worker.backends.engines.base import EngineError
from worker.backends.engines.llama_prefix import PrefixCaching, StateFolder, identity
from worker.backends.engines.llama_server import LlamaServer, ServerHttp
from worker.core.cancellation import CancelToken

_ERRORS_ONLY = 1
_STDERR = 2
_GPUS = {"GPU", "IGPU"}
_MODES = {
    (True, False): "MMAP", (True, True): "MMAP_MLOCK", (False, True): "MLOCK", (False, False): "NONE",
}  # fmt: skip
"""How a file is loaded, by whether it is mapped, and whether its pages are held in memory."""
_FLASH = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}


class LlamaEngine:
    """The library."""

    def check(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Tell of layers that no GPU takes; EngineError where they are declared for a device, and would be counted there."""
        if not params["n_gpu_layers"]:
            return ()  # and asks no driver, which may take memory for the question alone
        types = {each["type"].name.rpartition("TYPE_")[2] for each in xllamacpp.get_device_info()}
        if types & _GPUS:
            return ()
        found = "llama.cpp, as xllamacpp is installed here, finds no GPU; install the build of it for yours"
        if params["device"] is not None:
            raise EngineError(
                f"its layers are to be on {params['device']}, and {found}, or leave n_gpu_layers out"
            )
        return (f"params.n_gpu_layers has no effect: {found}",)

    def open(self, path: str, params: dict[str, Any], token: CancelToken) -> "LlamaSession":
        """Load a model. EngineError with llama.cpp's own words."""
        token.check()
        return LlamaSession(path, params)


class LlamaSession:
    """A model, and its cache of keys and values, which is held whole from the start.

    The server opens a port that nothing can keep it from: on loopback, with a key that no one but this process has.
    """

    def __init__(self, path: str, params: Mapping[str, Any]) -> None:
        self._params = params
        self._key = secrets.token_urlsafe(32)
        lines: list[str] = []
        self._states = StateFolder() if params["prefix_cache"] else None
        model = None if self._states is None else self._identity()
        try:
            with _complaints(lines):
                self.session = LlamaServer(_common(path, params, self._key, self._states))
        except RuntimeError as error:
            if self._states is not None:
                self._states.close()
            said = _cause(lines) or str(error)
            raise EngineError(
                f"llama.cpp refuses it: {said}; see that it is whole, and one that the installed version runs"
            ) from error
        self._http = ServerHttp(self.session.listening_address, self._key)
        # Its thread has to run before it is told to end, or it never does: this is answered by that.
        self._http.ask("GET", "/slots", None)
        if self._states is not None and model == self._identity():  # else the file was replaced meanwhile
            cache = PrefixCaching(self._http.ask, self._states, params["n_parallel"], str(model))
            self.session.begin(cache, self._http.ask)

    def _identity(self) -> str:
        return identity(self._params["files"], self._params, xllamacpp.__version__)

    def shrink(self) -> None:
        """Clear the cache: what was said in every sequence is worked out anew by whoever goes on with it."""
        for slot in range(self._params["n_parallel"]):
            self._http.ask("POST", f"/slots/{slot}?action=erase", None)
        self.session.forget()

    def close(self) -> None:
        """Drop the server: its threads, its port, its cache and its mapped file go with it."""
        del self.session
        if self._states is not None:
            self._states.close()

    def figures(self) -> Mapping[str, int | None]:
        """Return what the cache takes, which follows from the file's header and the context."""
        return {name: self._params[name] for name in ("kv_bytes", "kv_bytes_per_token")}


def _common(
    path: str, params: Mapping[str, Any], key: str, states: StateFolder | None
) -> xllamacpp.CommonParams:
    common = xllamacpp.CommonParams()
    common.model.path = path
    for name in ("n_ctx", "n_parallel", "n_gpu_layers", "n_batch", "n_ubatch", "main_gpu", "embedding"):
        setattr(common, name, params[name])
    for name in ("cache_type_k", "cache_type_v"):
        setattr(common, name, xllamacpp.ggml_type(params[name]))
    if params["n_threads"]:
        common.cpuparams.n_threads = common.cpuparams_batch.n_threads = params["n_threads"]
    mode = _MODES[params["use_mmap"], params["use_mlock"]]
    common.load_mode = getattr(xllamacpp.llama_load_mode, f"LLAMA_LOAD_MODE_{mode}")
    flash = _FLASH[params["flash_attn"]]
    common.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{flash}")
    if params["pooling_type"] is not None:
        pooling = f"LLAMA_POOLING_TYPE_{params['pooling_type'].upper()}"
        common.pooling_type = getattr(xllamacpp.llama_pooling_type, pooling)
    common.cache_ram_mib = params["prompt_cache_mib"]
    common.fit_params = (
        False  # where it does not fit, the worker makes headroom; llama.cpp would shorten the context
    )
    common.offline = True
    common.verbosity = _ERRORS_ONLY
    common.hostnames, common.port, common.api_keys, common.ui = ["127.0.0.1"], 0, [key], False
    common.n_threads_http = (
        1  # for what it does to its cache: plugins call the server here, not through its port
    )
    nowhere = os.path.join(os.devnull, "")  # noqa: PTH118 - it allows clearing, and saves nothing
    common.slot_save_path = nowhere if states is None else states.path
    return common


@contextlib.contextmanager
def _complaints(lines: list[str]) -> Iterator[None]:
    """Gather what the library writes to stderr meanwhile, where alone it says what is wrong; it is passed on, too."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        kept = os.dup(_STDERR)
        os.dup2(file.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)
            file.seek(0)
            text = file.read().decode("utf-8", "replace")
            lines += text.splitlines()
            sys.stderr.write(text)
            sys.stderr.flush()


def _cause(lines: list[str]) -> str | None:
    """Return the first of llama.cpp's complaints, without its time and its function: the others follow from it."""
    for line in lines:
        _, mark, said = line.partition(" E ")
        if mark:
            return said.partition(": ")[2] or said
    return None
