"""onnxruntime, in an engine's process."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import onnxruntime

from worker.backends.engines.base import EngineError
from worker.core.cancellation import CancelToken

_LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "layout": "ORT_ENABLE_LAYOUT",
    "all": "ORT_ENABLE_ALL",
}
_SHRINK = "memory.enable_memory_arena_shrinkage"
_ARENAS = {"CUDAExecutionProvider": "gpu", "TensorrtExecutionProvider": "gpu", "ROCMExecutionProvider": "gpu"}
_WARNINGS = 2
_TYPES = {
    "float": "float32", "double": "float64", "float16": "float16", "bool": "bool", "int8": "int8", "int16": "int16",
    "int32": "int32", "int64": "int64", "uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "uint64": "uint64",
}  # fmt: skip
"""numpy's name of an input's type, by onnxruntime's."""


class OnnxEngine:
    """The library."""

    def __init__(self) -> None:
        onnxruntime.set_default_logger_severity(_WARNINGS)
        disable = getattr(onnxruntime, "disable_telemetry_events", None)
        if disable is not None:
            disable()

    def check(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Raise EngineError where this build has not the providers that are asked for."""
        there = onnxruntime.get_available_providers()
        missing = [name for name, _ in params["providers"] if name not in there]
        if missing:
            build = f"onnxruntime {onnxruntime.__version__} as it is installed has {', '.join(there)}"
            raise EngineError(f"it asks for {', '.join(missing)}; {build}: install the build that has it")
        return ()

    def open(self, path: str, params: dict[str, Any], token: CancelToken) -> "OnnxSession":
        """Load a model. EngineError where this build has not what the params ask for."""
        self.check(params)
        providers = [(name, options) for name, options in params["providers"]]
        return OnnxSession(path, _options(params, token), providers, token)


class OnnxSession:
    """A model. Its arena grows with the largest run, and keeps what it has."""

    def __init__(
        self, path: str, options: onnxruntime.SessionOptions, providers: list[tuple[str, dict[str, str]]],
        token: CancelToken,
    ) -> None:  # fmt: skip
        self._open = partial(onnxruntime.InferenceSession, path, options, providers=providers)
        stop = getattr(options, "set_load_cancellation_flag", None)
        with token.telling(lambda: None if stop is None else stop(True)):  # noqa: FBT003 - as the library has it
            self.session: Any = self._open()
        asked, got = providers[0][0], self.session.get_providers()
        if asked not in got:
            raise EngineError(
                f"{asked} could not be used, and it would run on {got[0]}: see the engine's words in the log"
            )
        names = {"cpu": "0"} if options.enable_cpu_mem_arena else {}
        names |= {
            _ARENAS[name]: chosen.get("device_id", "0") for name, chosen in providers if name in _ARENAS
        }
        self._arenas = ";".join(f"{name}:{index}" for name, index in names.items())

    def shrink(self) -> None:
        """Run once on zeros, the smallest there can be, after which the arenas give back what they don't hold.

        onnxruntime gives memory back at the end of a run, and only then. A model that can't be run on zeros keeps it.
        """
        feeds = _zeros(self.session.get_inputs())
        if not self._arenas or feeds is None:
            return
        options = onnxruntime.RunOptions()
        options.add_run_config_entry(_SHRINK, self._arenas)
        options.log_severity_level = 4  # what it says of zeros is of no interest
        try:
            self.session.run(None, feeds, options)
        except Exception:  # noqa: BLE001 - it has no wish for zeros: then unloading is what gives memory back
            return

    def reopen(self) -> None:
        """Drop the session, and make another: an arena's first region stays for as long as it does."""
        self.session = None
        self.session = self._open()

    def close(self) -> None:
        """Drop the session: its arenas, its threads and its mapped files go with it."""
        self.session = None

    def figures(self) -> Mapping[str, int | None]:
        """Return nothing: it keeps no cache of keys and values from one run to the next."""
        return {}


def _options(params: Mapping[str, Any], token: CancelToken) -> onnxruntime.SessionOptions:
    token.check()
    options = onnxruntime.SessionOptions()
    for name in (
        "intra_op_num_threads",
        "inter_op_num_threads",
        "enable_cpu_mem_arena",
        "enable_mem_pattern",
    ):
        setattr(options, name, params[name])
    options.execution_mode = getattr(onnxruntime.ExecutionMode, f"ORT_{params['execution_mode'].upper()}")
    level = _LEVELS[params["graph_optimization_level"]]
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    for key, value in params["session_config"].items():
        options.add_session_config_entry(key, value)
    return options


def _zeros(inputs: list[Any]) -> dict[str, Any] | None:
    """Return the smallest inputs there can be; None where one is no tensor of numbers."""
    import numpy  # noqa: ICN001, PLC0415 - a dependency of onnxruntime's

    found = {}
    for each in inputs:
        dtype = _TYPES.get(each.type.removeprefix("tensor(").removesuffix(")"))
        if dtype is None:
            return None
        found[each.name] = numpy.zeros([size if isinstance(size, int) else 1 for size in each.shape], dtype)
    return found
