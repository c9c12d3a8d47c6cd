"""A plugin's work on a leased model, in whichever process the model's memory is.

Where a device has a process of its own, the work goes there by its function's name: that process imports the
plugin's module, which has to be importable under its interpreter. Data, result and progress are JSON.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from worker.backends.base import DeviceBackend, RemoteWork
from worker.core.cancellation import CancelToken
from worker.core.models import TensorInfo
from worker.loaders.tensors import dense_bytes, shaped, torch_form
from worker.stream.work import Call

if TYPE_CHECKING:
    import torch

ModelAction = Callable[[Any, dict[str, Any], Call], Any]
"""A plugin's action on a model. Takes what is leased, the request's ``data``, and the call. Returns JSON values."""


Copy = Callable[["torch.Tensor"], "torch.Tensor"]
"""Copies a tensor to a device."""


class Leased(Protocol):
    """What is known of a lease, beside its memory."""

    model_id: str
    fallback_reason: str | None
    device_id: str
    size_bytes: int
    infos: dict[str, TensorInfo]


def check_can_go(run: ModelAction) -> None:
    """Raise ValueError for a function that another process could not find by its name."""
    if "<" in run.__qualname__:
        message = f"{run.__qualname__} works on a model, so it has to be a function of its module: it may run elsewhere"
        raise ValueError(message)


def work_of(run: ModelAction, leased: Leased, data: dict[str, Any]) -> RemoteWork:
    """Return what another process needs to do it."""
    top = run.__module__.partition(".")[0]
    spec = find_spec(top)
    if spec is None:
        raise ModuleNotFoundError(top)
    places = spec.submodule_search_locations
    folder = Path(next(iter(places)) if places else str(spec.origin)).parent
    lease = {
        "model_id": leased.model_id,
        "fallback_reason": leased.fallback_reason,
        "device_id": leased.device_id,
        "size_bytes": leased.size_bytes,
        "tensors": [vars(each) | {"shape": list(each.shape)} for each in leased.infos.values()],
    }
    arguments = {"function": f"{run.__module__}:{run.__qualname__}", "lease": lease, "data": data}
    return RemoteWork(f"{__name__}:do_here", arguments, {top: str(folder)})


def do_here(
    backend: DeviceBackend, handle: str, token: CancelToken, report: Callable[[int, int], None],
    function: str, lease: dict[str, Any], data: dict[str, Any],
) -> Any:  # fmt: skip
    """Do it: called in the device's process."""
    module, _, name = function.partition(":")
    run = import_module(module)
    for part in name.split("."):
        run = getattr(run, part)
    weights = LeasedThere(backend, handle, token, **lease)
    return run(weights, data, Call(token, report))  # type: ignore[operator]  # it was found by its name


class LeasedThere(Mapping[str, memoryview]):
    """A lease as the device's process sees it; its worker holds it until the work is done."""

    def __init__(
        self, backend: DeviceBackend, handle: str, token: CancelToken, tensors: list[dict[str, Any]], *,
        model_id: str, fallback_reason: str | None, device_id: str, size_bytes: int,
    ) -> None:  # fmt: skip
        self.model_id = model_id
        self.fallback_reason = fallback_reason
        self.device_id = device_id
        self.size_bytes = size_bytes
        found = map(_info, tensors)
        self.infos: dict[str, TensorInfo] = {each.name: each for each in found}
        self._backend = backend
        self._handle = handle
        self._token = token

    def __getitem__(self, name: str) -> memoryview:
        info = self.infos[name]
        copy = memoryview(bytearray(info.placed_bytes))
        self._backend.read(self._handle, info.offset, copy, self._token)
        return dense_bytes(copy, info).toreadonly()

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    @property
    def session(self) -> Any:
        """The engine's own object: onnxruntime's ``InferenceSession``, say. TypeError for a model in no engine."""
        session_of = getattr(self._backend, "session", None)
        if session_of is None:
            message = f"{self.model_id} is in no engine: it has tensors, and no session"
            raise TypeError(message)
        return session_of(self._handle)

    def tensors(self) -> "Mapping[str, torch.Tensor]":
        """Return the tensors on the device.

        TypeError for a device that torch does not know, UnsupportedError for an element type that the device has not.
        """
        whole_of = getattr(self._backend, "tensor", None)
        if whole_of is None:
            message = f"{self.device_id} is no device of torch's"
            raise TypeError(message)
        # A backend that copies has memory that is opaque to torch: bytes stay bytes there.
        copy_of = getattr(self._backend, "copy_of", None)
        copy = None if copy_of is None else partial(copy_of, self._handle)
        return _TensorsThere(self, whole_of(self._handle), copy)


def _info(fields: dict[str, Any]) -> TensorInfo:
    """Read what JSON made of it: there are no tuples there."""
    strides = fields["strides"]
    there = {"shape": tuple(fields["shape"]), "strides": None if strides is None else tuple(strides)}
    return TensorInfo(**(fields | there))


class _TensorsThere(Mapping[str, "torch.Tensor"]):
    """Each made when it is asked for: over the model's own memory, or a copy where torch cannot address that.

    A copy is in a type that the device has, and holds the same values (DirectML: BF16 as float32, FP8 as float16).
    """

    def __init__(self, weights: LeasedThere, whole: "torch.Tensor", copy: Copy | None) -> None:
        self._weights = weights
        self._whole = whole
        self._copy = copy

    def __getitem__(self, name: str) -> "torch.Tensor":
        import torch  # noqa: PLC0415 - only where the device is torch's

        info = self._weights.infos[name]
        dtype, shape = torch_form(info)
        if self._copy is not None:
            content = bytearray(self._weights[name])
            flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
            return self._copy(shaped(flat, shape, info.strides))
        if not info.placed_bytes:
            return torch.empty(shape, dtype=dtype, device=self._whole.device)
        part = self._whole[info.offset : info.offset + info.placed_bytes]
        return shaped(part.view(dtype), shape, info.strides)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
