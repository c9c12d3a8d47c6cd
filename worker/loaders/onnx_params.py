"""What an operator may say of how onnxruntime runs a model, checked before the engine is started."""

from collections.abc import Mapping
from typing import Any

from worker.core.models import ModelSpec
from worker.loaders.base import load_failed
from worker.loaders.params import Params, text_of, unknown

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "directml": "DmlExecutionProvider",
    "dml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "dnnl": "DnnlExecutionProvider",
}
"""Providers as people call them; onnxruntime's own names are taken as they are."""

_FULL_NAMES = {each.lower(): each for each in PROVIDERS.values()}

_DEVICES = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "DmlExecutionProvider": "dml",
}
"""What kind of device a provider puts a model on, where the worker knows such devices."""


_MOST_THREADS = 4096
_LEVELS = ("disable", "basic", "extended", "layout", "all")


def checked(spec: ModelSpec) -> dict[str, Any]:
    """Return the params as the engine takes them: ``providers`` as pairs of name and options. ModelLoadFailedError."""
    given = Params(spec, "onnx")
    found = {
        "providers": _providers(spec, given.whatever("providers", ["cpu"])),
        "intra_op_num_threads": given.whole("intra_op_num_threads", 0, _MOST_THREADS),
        "inter_op_num_threads": given.whole("inter_op_num_threads", 0, _MOST_THREADS),
        "execution_mode": given.word("execution_mode", ("sequential", "parallel"), "sequential"),
        "graph_optimization_level": given.word("graph_optimization_level", _LEVELS, "all"),
        "enable_cpu_mem_arena": given.flag("enable_cpu_mem_arena", otherwise=True),
        "enable_mem_pattern": given.flag("enable_mem_pattern", otherwise=True),
        "session_config": given.texts("session_config"),
    }
    given.check()
    return found


def device_of(params: Mapping[str, Any]) -> str | None:
    """Return the device that its first provider puts a model on; None for the machine's own memory."""
    name, options = params["providers"][0]
    kind = _DEVICES.get(name)
    return None if kind is None else f"{kind}:{options.get('device_id', '0')}"


def _providers(spec: ModelSpec, value: Any) -> list[tuple[str, dict[str, str]]]:
    """Read ``[cuda, cpu]`` or ``[{cuda: {device_id: 1}}, cpu]``."""
    each = value if isinstance(value, list) else [value]
    found = []
    for said in each:
        name, options = next(iter(said.items())) if isinstance(said, dict) and len(said) == 1 else (said, {})
        named = isinstance(name, str) and isinstance(options, dict)
        if (
            not isinstance(name, str)
            or not named
            or not all(isinstance(one, str | int | float | bool) for one in options.values())
        ):
            raise load_failed(
                spec,
                "params.providers is to be a list of names, such as [cuda, cpu], each alone or with its options, such "
                f"as {{cuda: {{device_id: 1}}}}; not {said!r}",
            )
        full = PROVIDERS.get(name.lower()) or _FULL_NAMES.get(name.lower(), name)
        if full == name and not full.endswith("ExecutionProvider"):
            raise unknown(spec, "params.providers: ", name, "provider of onnxruntime's", PROVIDERS)
        found.append((full, {str(key): text_of(one) for key, one in options.items()}))
    if not found:
        raise load_failed(spec, "params.providers is empty: name one, such as cpu")
    return found
