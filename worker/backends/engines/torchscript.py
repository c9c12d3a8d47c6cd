"""TorchScript through ``torch.jit``, in an engine's process: a program with its weights."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from worker.backends.engines.base import EngineError
from worker.core.cancellation import CancelToken


class TorchScriptEngine:
    """The library. How many threads it uses is set for each model: its process may have had another before."""

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()

    def check(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Raise EngineError for a GPU that this build of torch has not."""
        if params["device"] != "cpu" and not torch.cuda.is_available():
            raise EngineError(
                f"it is for {params['device']}, and torch {torch.__version__} as it is installed finds no GPU: install"
                " the build of it for yours"
            )
        return ()

    def open(self, path: str, params: dict[str, Any], token: CancelToken) -> "TorchScriptSession":
        """Load a program, for being used and not trained."""
        token.check()
        self.check(params)
        torch.set_num_threads(params["threads"] or self._threads)
        return TorchScriptSession(path, params["device"])


class TorchScriptSession:
    """A program and its weights."""

    def __init__(self, path: str, device: str) -> None:
        with (
            warnings.catch_warnings()
        ):  # that torch would have programs in another format is no news to who has one
            warnings.simplefilter("ignore", DeprecationWarning)
            self.session = torch.jit.load(path, map_location=device).eval()

    def shrink(self) -> None:
        """Have torch give back the blocks that it keeps on a GPU; on the CPU it keeps none."""
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Drop the program."""
        del self.session
        self.shrink()

    def figures(self) -> Mapping[str, int | None]:
        """Return nothing: what state a program keeps is its own."""
        return {}
