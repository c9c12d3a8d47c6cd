"""ONNX models: read here as far as their header, run by onnxruntime in an engine process."""

import os
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from worker.backends.engines.base import EngineLaunch
from worker.core.models import ModelSpec
from worker.core.paths import exists
from worker.loaders.base import load_failed, naming, reading
from worker.loaders.file_kind import HEAD_BYTES, check_kind, head_of, not_a_model
from worker.loaders.model_path import check_link, confined, model_files, open_file
from worker.loaders.onnx_header import OnnxHeader, read_header
from worker.loaders.onnx_params import checked, device_of
from worker.loaders.positional_file import PositionalFile

_READ_BYTES = 64 * 1024
REMEDIES = {
    "onnxruntime": "pip install memory-worker[onnx], or the build of onnxruntime that has your providers"
}
NEEDS = f"it needs onnxruntime, which is not installed: {REMEDIES['onnxruntime']}"


class OnnxLoader:
    """Loads ``.onnx`` files, with the files beside them that hold their weights."""

    def estimate(self, spec: ModelSpec) -> int | None:
        """Return the bytes of its weights and constants, wherever they are."""
        return _read(spec)[0].tensor_bytes

    def launch(self, spec: ModelSpec) -> EngineLaunch:
        """Check the header, the files that it names, and the params."""
        params = checked(spec)
        header, path, declared = _read(spec)
        others = _external(spec, header, declared)
        if find_spec("onnxruntime") is None:
            raise load_failed(spec, NEEDS)
        # The library looks for them beside the file as it is named, which in a hub cache is a link.
        opened = Path(os.path.abspath(declared)) if others else path  # noqa: PTH100 - links are not followed
        return EngineLaunch(
            engine="worker.backends.engines.onnx:OnnxEngine",
            path=opened,
            params=params,
            files=(path, *others),
            remedies=REMEDIES,
            group=spec.engine_group,
            estimated_bytes=header.tensor_bytes,
        )

    def device_id(self, spec: ModelSpec) -> str | None:
        """Return the device of its first provider."""
        return device_of(checked(spec))


def _read(spec: ModelSpec) -> tuple[OnnxHeader, Path, Path]:
    """Read the header. Returns it, where the file really is, and where it was declared."""
    found = model_files(spec)
    if len(found.real) != 1:
        raise load_failed(
            spec,
            f"an ONNX model is one file, with what lies beside it, and there are {len(found.real)}: declare that one",
        )
    with naming(spec, found.names(spec)[0]):
        descriptor, size, _ = open_file(spec, found.real[0])
        with open(descriptor, "rb", buffering=_READ_BYTES) as file, reading(spec):  # noqa: PTH123 - a descriptor
            check_kind("onnx", file.read(HEAD_BYTES), size)
            return read_header(file, size), found.real[0], found.declared[0]


def _external(spec: ModelSpec, header: OnnxHeader, declared: Path) -> tuple[Path, ...]:
    """Check the other files that it names: below the model root, and as long as it says."""
    found = []
    for each in header.external:
        location = Path(each.location)
        if spec.model_root is None or location.is_absolute() or ".." in location.parts:
            raise load_failed(spec, f"it has weights in {each.location!r}, which is not in its own folder")
        try:
            real = confined(declared.parent / location, spec.model_root)
        except ValueError as error:
            raise load_failed(spec, f"it has weights in {each.location!r}: {error}") from error
        with naming(spec, each.location), reading(spec):
            check_link(spec, declared.parent / location, real)
            there = exists(real)
        if not there:
            raise load_failed(spec, f"its weights are in {each.location!r}, which is not there: download it")
        with naming(spec, each.location):
            _check_length(spec, real, each.end_bytes)
        found.append(real)
    return tuple(found)


def _check_length(spec: ModelSpec, path: Path, end_bytes: int) -> None:
    """See that a file of weights reaches so far; what is shorter may be something else, which is told."""
    descriptor, size, _ = open_file(spec, path)
    with closing(PositionalFile(descriptor, size, path)) as file, reading(spec):
        if size < end_bytes:
            short = f"it has {size} bytes, and the weights reach to {end_bytes}: its download did not end; download it again"
            raise load_failed(spec, not_a_model(head_of(file), size) or short)
