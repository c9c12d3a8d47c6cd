"""Leaving weights in their file, where the file, the device and the operator allow it."""

from worker.backends.base import DeviceBackend, MapsFiles
from worker.backends.pieces import Done
from worker.core.cancellation import CancelToken
from worker.core.errors import ModelLoadFailedError
from worker.core.models import ModelSpec, Placement, TensorInfo
from worker.core.records import Block
from worker.loaders.base import InPlace, MappableFile, WeightFile, load_failed


def map_weights(
    spec: ModelSpec, file: WeightFile, backend: DeviceBackend, handle: str, token: CancelToken, done: Done
) -> tuple[Block, tuple[TensorInfo, ...]] | None:
    """Make a block of the file where it is; None where the weights are to be copied.

    1. On a device whose memory is not the machine's own they are copied; with ``copy``, everywhere.
    2. With ``auto``, whatever stands in the way of mapping them means that they are copied.
    3. With ``map`` it is a ModelLoadFailedError; but no process has to hold writers off.
    """
    if spec.placement is Placement.COPY or not isinstance(backend, MapsFiles):  # 1
        return None
    wanted = spec.placement is Placement.MAP
    try:
        where = _in_place(spec, file)
        return backend.map_file(handle, where.file, token, done, guarded=not wanted), where.tensors
    except ModelLoadFailedError:
        if wanted:  # 3
            raise
    except OSError as error:
        if wanted:  # 3
            raise load_failed(
                spec, f"mapping it failed: {error.strerror or error}; declare placement: auto, or copy"
            ) from error
    return None  # 2


def check_mappable(spec: ModelSpec, file: WeightFile, backend: DeviceBackend) -> None:
    """Raise ModelLoadFailedError where weights are to be mapped on this device, and lie so that they can't be."""
    if spec.placement is Placement.MAP and isinstance(backend, MapsFiles):
        _in_place(spec, file)


def _in_place(spec: ModelSpec, file: WeightFile) -> InPlace:
    if not isinstance(file, MappableFile):
        raise load_failed(
            spec, f"its loader {spec.loader} can't leave weights in their file: declare placement: auto"
        )
    return file.in_place()
