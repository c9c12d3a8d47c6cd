"""Loaders by name: our own, and those that installed packages offer as ``memory_worker.loaders``."""

from contextlib import closing
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from protocol.engine_keys import NOT_FOR_ENGINES
from worker.core.models import AUTO_LOADER, ModelSpec, Placement
from worker.loaders.base import EngineLoader, FileLoader, ObjectLoader, load_failed, naming, reading
from worker.loaders.model_path import model_files, open_file

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from worker.loaders.positional_file import PositionalFile

GROUP = "memory_worker.loaders"
"""An entry point here names a class without arguments that is a FileLoader, an ObjectLoader or an EngineLoader."""

BUILT_IN = {
    "safetensors": ("worker.loaders.safetensors_loader", "SafetensorsLoader"),
    "torch": ("worker.loaders.torch_loader", "TorchLoader"),
    "module": ("worker.loaders.module_loader", "ModuleLoader"),
    "onnx": ("worker.loaders.onnx_loader", "OnnxLoader"),
    "gguf": ("worker.loaders.gguf_loader", "GgufLoader"),
    "torch.jit": ("worker.loaders.torchscript_loader", "TorchScriptLoader"),
}


def loader_names() -> tuple[str, ...]:
    """Return all names: our own, then others' in order. Searches the installed packages."""
    return (*BUILT_IN, *sorted(_entry_points().keys() - BUILT_IN.keys()))


def is_loader(name: str) -> bool:
    """Tell whether there is such a loader. Searches the installed packages only for one that is not ours."""
    return name in BUILT_IN or name in _entry_points()


def inferred(spec: ModelSpec) -> ModelSpec:
    """Return the declaration with a loader: the declared one, else what the file's contents say. Errors as ``loader_of``."""
    if spec.loader != AUTO_LOADER or spec.refused is not None:
        return spec
    return replace(spec, loader=_by_contents(spec))


def loader_of(spec: ModelSpec) -> FileLoader | ObjectLoader | EngineLoader:
    """Return the model's loader. ModelLoadFailedError if there is none, or it is not one."""
    if spec.refused is not None:
        raise load_failed(spec, spec.refused)
    name = inferred(spec).loader
    if name is None:
        raise load_failed(spec, "it is external: another process holds it")
    offered = None if name in BUILT_IN else _entry_points().get(name)
    if name not in BUILT_IN and offered is None:
        known = ", ".join(loader_names())
        raise load_failed(spec, f"there is no loader {name!r}; there are {known}")
    try:
        loader: Any = _built_in(name) if offered is None else offered.load()()
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {error}"
        raise load_failed(spec, f"its loader {name!r} can't be had: {text}") from error
    if isinstance(loader, EngineLoader):
        _check_keys(spec)
    if isinstance(loader, FileLoader | ObjectLoader | EngineLoader):
        return loader
    raise load_failed(spec, f"its loader {name!r} has none of open, build and launch beside estimate")


def _check_keys(spec: ModelSpec) -> None:
    """Refuse what means nothing to an engine: where its loader is inferred, no declaration could be refused for it."""
    given = {"dtype": spec.dtype, "offload": spec.offload, "placement": spec.placement is not Placement.AUTO}
    if any(given.values()):
        key = next(name for name, value in given.items() if value)
        raise load_failed(spec, f"{key}: {NOT_FOR_ENGINES[key]}")


def _by_contents(spec: ModelSpec) -> str:
    """Look into the model's first file. ModelLoadFailedError, in words, for one that no loader is for."""
    from worker.loaders.file_kind import ZIP, head_of, loader_for, not_a_model, unknown  # noqa: PLC0415 - only where none is named
    from worker.loaders.positional_file import PositionalFile  # noqa: PLC0415 - only for such a file

    files = model_files(spec)
    with naming(spec, files.names(spec)[0]):
        with closing(PositionalFile(*open_file(spec, files.real[0]))) as file, reading(spec):
            head = head_of(file)
            is_script = head.startswith(ZIP) and _is_script(file)
        found = not_a_model(head, file.size_bytes)
        if found is not None:
            raise load_failed(spec, found)
        loader = "torch.jit" if is_script else loader_for(head)
        if loader is None:
            raise load_failed(spec, unknown(file.size_bytes, loader_names()))
    return loader


def _is_script(file: "PositionalFile") -> bool:
    """Tell whether an archive of torch's is a program. What is no archive is the loader's to complain of."""
    from worker.loaders.torch_archive import script_bytes  # noqa: PLC0415 - only where none is named
    from worker.loaders.zip_records import ZipError  # noqa: PLC0415 - only for such a file

    try:
        return script_bytes(file) is not None
    except ZipError:
        return False


def _built_in(name: str) -> Any:
    module, kind = BUILT_IN[name]
    return getattr(import_module(module), kind)()


def _entry_points() -> "dict[str, EntryPoint]":
    from importlib.metadata import entry_points  # noqa: PLC0415 - 30 ms, and only for others' loaders

    return {each.name: each for each in entry_points(group=GROUP)}
