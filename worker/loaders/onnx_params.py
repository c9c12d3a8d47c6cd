"""What an operator may say of how onnxruntime runs a model, checked before the engine is started."""

from collections.abc import Callable, Mapping
from typing import Any

from worker.core.models import ModelSpec
from worker.loaders.base import load_failed
from worker.loaders.params import unknown

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

_DEVICES = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "DmlExecutionProvider": "dml",
}
"""What kind of device a provider puts a model on, where the worker knows such devices."""


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 4096  # noqa: PLR2004 - of threads


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: value in words


_LEVELS = ("disable", "basic", "extended", "layout", "all")
_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "intra_op_num_threads": (_count, "a number of threads, 0 for as many as there are cores"),
    "inter_op_num_threads": (_count, "a number of threads, 0 for as many as there are cores"),
    "execution_mode": (_one_of("sequential", "parallel"), "sequential or parallel"),
    "graph_optimization_level": (_one_of(*_LEVELS), f"one of {', '.join(_LEVELS)}"),
    "enable_cpu_mem_arena": (_flag, "true or false"),
    "enable_mem_pattern": (_flag, "true or false"),
    "session_config": (
        lambda value: (
            isinstance(value, dict) and all(isinstance(each, str | int | float) for each in value.values())
        ),
        "texts or numbers by name, as onnxruntime's session options have them",
    ),
}


def checked(spec: ModelSpec) -> dict[str, Any]:
    """Return the params as the engine takes them: ``providers`` as pairs of name and options. ModelLoadFailedError."""
    params = dict(spec.params)
    found: dict[str, Any] = {"providers": _providers(spec, params.pop("providers", ["cpu"]))}
    for name, value in params.items():
        rule = _RULES.get(name)
        if rule is None:
            raise unknown(spec, "params.", name, "option of the loader onnx", ("providers", *_RULES))
        if not rule[0](value):
            raise load_failed(spec, f"params.{name} is to be {rule[1]}, not {value!r}")
        found[name] = {key: _text(one) for key, one in value.items()} if isinstance(value, dict) else value
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
        full = PROVIDERS.get(name.lower(), name)
        if full == name and not full.endswith("ExecutionProvider"):
            raise unknown(spec, "params.providers: ", name, "provider of onnxruntime's", PROVIDERS)
        found.append((full, {str(key): _text(one) for key, one in options.items()}))
    if not found:
        raise load_failed(spec, "params.providers is empty: name one, such as cpu")
    return found


def _text(value: object) -> str:
    """Write an option as onnxruntime reads it."""
    return str(int(value)) if isinstance(value, bool) else str(value)
