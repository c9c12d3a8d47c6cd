"""Stores of kind ``kv`` of ``host.stores``. What these are is in worker/stores; see docs/stores.md."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from worker.plugins._searched_stores import ScopeOf


class Beginning(NamedTuple):
    """What was put of the beginning of a prompt."""

    length: int
    """Of how many tokens it was made."""
    tensors: dict[str, Any]
    """A copy, by name."""


class Kv(Protocol):
    """What models made of the beginnings of prompts, as keys and values of attention: tensors by name."""

    def put(
        self, scope: ScopeOf, model: str, tokens: Sequence[int], tensors: Mapping[str, Any], *, cost_ms: float = 0.0,
        tags: Iterable[str] = (),
    ) -> bool:  # fmt: skip
        """Put tensors of torch, or arrays of numpy, which a model made of tokens: those of a prompt, from its beginning on.

        ``model`` names all that they depend on: weights, types, versions. ``cost_ms`` is what making them took, as you
        measured it. False where there is no place for them now; TypeError for what are no tensors; LimitExceededError for
        more bytes than the store may have.
        """
        ...

    def longest(
        self, scope: ScopeOf, model: str, tokens: Sequence[int], *, framework: str = "numpy"
    ) -> Beginning | None:
        """Return what was put of the longest beginning of a prompt, or None. Nothing is opened for that.

        ``framework`` is ``torch`` or ``numpy``, which has no BF16 and no FP8.
        """
        ...

    def delete(
        self, scope: ScopeOf, key: str | None = None, *, tag: str | None = None, prefix: str | None = None
    ) -> int:
        """Delete what one of these chooses: ``prefix="MODEL//"`` all of a model. Returns how many entries.

        ValueError for none of them, or several.
        """
        ...
