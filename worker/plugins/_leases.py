"""What code in the same process works with models through: ``with models.use("id") as weights``.

A model in use is never unloaded, whoever asks for its memory, and its use is what the strategies learn from.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_S, Clock
from worker.core.models import TensorInfo
from worker.loaders.tensors import Weights, dense_bytes
from worker.plugins._remote_action import ModelAction, work_of
from worker.stream.work import Call

if TYPE_CHECKING:
    import torch

    from worker.workers.model_load import Acquired, ModelWorker
    from worker.workers.weights import ModelWeights


class LeasedModel(Mapping[str, memoryview]):
    """A loaded model's tensors by name, as bytes. Valid until the lease ends."""

    def __init__(self, weights: "ModelWeights", acquired: "Acquired") -> None:
        residence = acquired.residence
        self.model_id = acquired.entry.model_id
        """Which it is: a fallback where the model asked for has no headroom."""
        self.fallback_reason = acquired.fallback_reason
        """Why it is not the model asked for; None where it is."""
        self.device_id = residence.device_id
        self.size_bytes = residence.size_bytes
        self._weights = weights
        self._residence = residence
        tensors = weights.tensors(residence)
        self.infos: dict[str, TensorInfo] = {each.name: each for each in tensors or ()}
        """How each tensor is shaped and typed."""
        self._view = None if tensors is None else weights.view(residence)
        self._torch: Weights | None = None

    def __getitem__(self, name: str) -> memoryview:
        info = self.infos[name]
        if self._view is not None:
            return dense_bytes(self._view[info.offset : info.offset + info.placed_bytes], info).toreadonly()
        copy = memoryview(bytearray(info.placed_bytes))
        self._weights.read(self._residence, info.offset, copy)
        return dense_bytes(copy, info).toreadonly()

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    def tensors(self) -> "Mapping[str, torch.Tensor]":
        """Return the tensors as torch's own, without a copy. TypeError where the worker can't address them."""
        if self._view is None:
            message = f"{self.model_id} is on {self.device_id}: torch here can't see its memory"
            raise TypeError(message)
        if self._torch is None:
            self._torch = Weights(self._view, self.infos.values())
        return self._torch

    def content(self) -> object:
        """Return what the operator's own factory made. KeyError for a model from a file."""
        return self._weights.content(self._residence)

    @property
    def session(self) -> object:
        """Raise TypeError: an engine's own object is in the engine's process, where a model action works with it."""
        where = "an engine's process" if self._residence.engine else "no engine"
        message = f"{self.model_id} is in {where}: only what add_model_action runs there has its session"
        raise TypeError(message)

    def do(self, run: ModelAction, data: dict[str, Any], call: Call) -> Any:
        """Do a plugin's work on it in the process where it is: it is handed this, or the same over there."""
        there = self._weights.work_there(
            self.model_id, self._residence, lambda: work_of(run, self, data), call.token, call.report
        )
        return run(self, data, call) if there is None else there[0]

    def close(self) -> None:
        """Let go of the memory."""
        if self._torch is not None:
            self._torch.close()
        if self._view is not None:
            self._view = None


class Models:
    """The models of this worker."""

    def __init__(self, worker: "ModelWorker", clock: Clock) -> None:
        self._worker = worker
        self._clock = clock

    @contextmanager
    def use(
        self, model_id: str, *, device_id: str | None = None, wait_s: float = 0.0,
        token: CancelToken | None = None, allow_fallback: bool = True,
    ) -> Iterator[LeasedModel]:  # fmt: skip
        """Lease a model, loading it first if need be, and unloading others for it by plan.

        ``wait_s`` is how long to wait for others' leases to end where only they stand in the way: whoever
        holds a lease while waiting for another may wait in a circle, and gets OutOfMemoryError after it.
        Where there is no headroom, the model's declared fallback is leased, unless that is not allowed:
        ``model_id`` of what is yielded tells.

        Raises:
            ModelNotFoundError, ModelBusyError, ModelLoadFailedError, OutOfMemoryError, LimitExceededError:
                as ``memory.load_model``.
            UnsupportedError: another process holds the model.
        """
        own = token or CancelToken(self._clock.now_ns)
        wait_ns = round(wait_s * NS_PER_S)
        acquired = self._worker.acquire(
            model_id, own, device_id=device_id, wait_ns=wait_ns, fallback=allow_fallback
        )
        try:
            with closing(LeasedModel(self._worker.weights, acquired)) as leased:
                yield leased
        finally:
            self._worker.models.release(acquired.entry.model_id, acquired.residence.handle)
