"""Beginnings of prompts that llama.cpp need not work out again: what it has in its cache is put into the worker's store.

Around each completion:

1. The prompt's tokens are what llama.cpp itself makes of it.
2. A slot is taken, that with the most of them in its cache. Where the store has more, and reading that takes less time than
   working it out, the slot is given what the store has.
3. The completion goes on in that slot; llama.cpp compares the tokens by itself, and works out what is not there.
4. Blocks of tokens that the store has not are put there, with the time that they took; unless capturing them would take longer.

What fails on the way costs time, and nothing else: then llama.cpp works out what it would have without all this.
"""

import mmap
import os
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from worker.backends.engines.asking import Asker, asker
from worker.backends.engines.base import state_of
from worker.backends.engines.llama_state import joined, parsed
from worker.core.sure_lock import SureLock
from worker.core.system_calls import file_in_memory

BLOCK = 64
"""Tokens of a block: a MiB to some MiB of keys and values."""

_NEUTRAL = frozenset(
    {
        "files", "kv_bytes", "kv_bytes_per_token", "n_batch", "n_ctx", "n_threads", "prefix_cache", "prefix_cache_persist", "prompt_cache_mib",
        "use_mlock", "use_mmap",
    }
)  # fmt: skip
"""Params that keys and values do not depend on. Any other makes another model."""

_SAMPLES, _SAMPLE_BYTES = 64, 2**16
_FEW = 16
"""Tokens; how long fewer than this took says little of how long each takes."""
_CAUSES = 100
"""Of what failed are told, at most."""
_DESCRIPTORS = "/proc/self/fd/"

Ask = Callable[[str, str, Any], Any]
"""Asks llama.cpp's server: a method, a path and a body. OSError where it refuses, with its words."""
Run = Callable[[dict[str, Any], Callable[[Any], Any] | None], Any]
"""Has a completion done, with who takes its pieces."""


def identity(paths: Sequence[str], params: Mapping[str, Any], version: str) -> str:
    """Return what tells apart all models whose keys and values differ: files as they are, params, the library's version.

    Of each file its place, inode, size and time count, and of its bytes 4 MiB, spread over it.
    """
    hashed = sha256(repr((version, sorted((k, v) for k, v in params.items() if k not in _NEUTRAL))).encode())
    files = tuple(map(Path, paths))
    hashed.update(repr(state_of(files)).encode())
    for path in files:
        with path.open("rb", buffering=0) as file:
            size = path.stat().st_size
            for number in range(_SAMPLES):
                file.seek(max(0, size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
                hashed.update(file.read(_SAMPLE_BYTES))
    return f"llama.cpp {hashed.hexdigest()[:32]}"


class StateFolder:
    """Where llama.cpp writes states to and reads them from: memory on Linux, else files of a folder of its own."""

    def __init__(self) -> None:
        tried = file_in_memory("memory-worker-tried") if os.path.isdir(_DESCRIPTORS) else None  # noqa: PTH112 - no folder like others
        if tried is not None:
            os.close(tried)
        self._files = (
            None
            if tried is not None
            else tempfile.TemporaryDirectory("-states", "memory-worker-", ignore_cleanup_errors=True)
        )
        self.path = _DESCRIPTORS if self._files is None else os.path.join(self._files.name, "")  # noqa: PTH118 - with its end

    @contextmanager
    def file(self) -> Iterator[tuple[str, BinaryIO]]:
        """Return a new file, by the name that it has there, until the end of the block."""
        descriptor = file_in_memory("memory-worker-state") if self._files is None else None
        if descriptor is not None:
            with os.fdopen(descriptor, "r+b") as file:
                yield str(file.fileno()), file
        else:
            fd, path = tempfile.mkstemp(dir=self.path)
            try:
                with os.fdopen(fd, "r+b") as file:
                    yield Path(path).name, file
            finally:
                Path(path).unlink()

    def close(self) -> None:
        """Remove it."""
        if self._files is not None:
            self._files.cleanup()


class _Slot:
    """What one of llama.cpp's sequences has in the cache, as far as that is known."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.busy = False
        self.forget()

    def forget(self) -> None:
        """Note that nothing is known of it."""
        self.tokens: Sequence[int] = ()
        self.stored: tuple[tuple[str, str], int] | None = None
        """For which scope, and how many tokens from the beginning, the store had as it was looked at last."""


class PrefixCaching:
    """What is done around completions of one model. Thread-safe."""

    def __init__(self, ask: Ask, folder: StateFolder, slots: int, model: str) -> None:
        self._ask = ask
        self._folder = folder
        self._model = model
        self._lock = SureLock()
        # All mutable state: the slots, what is known of them by whoever has them; what a token takes, in milliseconds, to
        # be worked out, put and had back; and what was told.
        self._slots = [_Slot(each) for each in range(slots)]
        self._ms: dict[str, float] = {}
        self._of_late: dict[str, tuple[float, float]] = {}
        """What that is of: tokens, and their milliseconds."""
        self._told: set[str] = set()
        self._off = False
        """Whether the cache is of a kind that is not taken apart."""

    def forget(self) -> None:
        """Note that llama.cpp's own cache was cleared, or had by who took no sequence. Who has one notes by itself what it has."""
        with self._lock:
            for each in self._slots:
                if not each.busy:
                    each.forget()

    def completed(
        self, body: dict[str, Any], on_piece: Callable[[Any], Any] | None, run: Run, tokens_of: Callable[[dict[str, Any]], list[int] | None],
    ) -> Any:  # fmt: skip
        """Have a completion done, with what the store has of its prompt."""
        worker, body = asker(), dict(body)
        scope = (str(body.pop("user_id", "default_user")), str(body.pop("project_id", "default")))
        tokens = None if worker is None else self._tokens(body, tokens_of)
        slot = self._taken(tokens, body.get("id_slot")) if tokens else None
        if worker is None or slot is None or not tokens:
            try:
                return run(body, on_piece)
            finally:
                self.forget()  # it had whichever sequence was free
        try:
            self._guarded("given back", self._restore, worker, scope, slot, tokens)
            return self._run(worker, scope, slot, tokens, body, on_piece, run)
        finally:
            slot.busy = False

    def _tokens(
        self, body: dict[str, Any], tokens_of: Callable[[dict[str, Any]], list[int] | None]
    ) -> list[int] | None:
        """Return a prompt's tokens; None for one that goes on without the store."""
        if self._off or body.get("cache_prompt") is False or body.get("lora") or body.get("n", 1) != 1:
            return None
        try:
            return tokens_of(body)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None  # llama.cpp says by itself what is wrong with it

    def _run(
        self, worker: Asker, scope: tuple[str, str], slot: _Slot, tokens: list[int], body: dict[str, Any],
        on_piece: Callable[[Any], Any] | None, run: Run,
    ) -> Any:  # fmt: skip
        last: list[Any] = [None]

        def taken(piece: Any) -> Any:
            last[0] = piece
            return None if on_piece is None else on_piece(piece)

        known = slot.stored
        slot.forget()  # nothing is known of it where this fails
        result = run(body | {"id_slot": slot.number}, None if on_piece is None else taken)
        said = result if isinstance(result, dict) else last[0]
        timings = said.get("timings") if isinstance(said, dict) else None
        if isinstance(said, dict) and "error" not in said:
            slot.tokens, slot.stored = tokens, known
        if isinstance(timings, dict):
            self._guarded("captured", self._capture, worker, scope, slot, tokens, timings)
        return result

    # ---- what the store has ----

    def _restore(self, worker: Asker, scope: tuple[str, str], slot: _Slot, tokens: list[int]) -> None:
        here, whole = _common(slot.tokens, tokens), len(tokens) // BLOCK * BLOCK
        if whole <= here and slot.stored is not None and slot.stored[0] == scope:
            return
        question = {
            "do": "longest", "model": self._model, "scope": scope, "tokens": tokens, "step": BLOCK,
            "beyond": self._worth_beyond(here),
        }  # fmt: skip
        began = time.perf_counter()
        slot.stored = None
        with worker.ask(question) as found:
            count = found["count"] * BLOCK
            slot.stored = scope, count
            if not found["blocks"]:
                return
            count = len(found["blocks"]) * BLOCK
            slot.stored = scope, 0  # where they are of no use, they are put anew
            slot.tokens = ()
            with self._folder.file() as (name, file):
                for piece in joined(found["blocks"], tokens[:count]):
                    file.write(piece)
                file.flush()
                parsed(_mapped(file))  # of what is no state llama.cpp would end the process
                self._ask("POST", f"/slots/{slot.number}?action=restore", {"filename": name})
        slot.tokens, slot.stored = tokens[:count], (scope, count)
        self._note("restore", count, began)

    def _worth_beyond(self, here: int) -> int:
        """Return more than how many tokens there have to be in the store, so that having them is quicker than working them out."""
        working, having = self._ms.get("prefill"), self._ms.get("restore")
        if working is None or having is None:
            return here
        return 2**31 if having >= working else int(here * working / (working - having))

    def _capture(
        self, worker: Asker, scope: tuple[str, str], slot: _Slot, tokens: list[int], timings: dict[str, Any]
    ) -> None:
        worked_out, took_ms = int(timings["prompt_n"]), float(timings["prompt_ms"])
        if worked_out >= _FEW:
            self._mean("prefill", worked_out, took_ms)
        if "prefill" not in self._ms:
            return
        stored = slot.stored[1] if slot.stored is not None and slot.stored[0] == scope else 0
        in_cache = len(tokens) + max(0, int(timings.get("predicted_n", 1)) - 1)
        new = in_cache // BLOCK * BLOCK - stored
        if new <= 0 or self._ms.get("capture", 0.0) * in_cache > self._ms["prefill"] * new:
            return
        began = time.perf_counter()
        with self._folder.file() as (name, file):
            saved = self._ask("POST", f"/slots/{slot.number}?action=save", {"filename": name})["n_saved"]
            if saved != in_cache or not self._put(
                worker, scope, slot, tokens, _mapped(file), min(stored, len(tokens))
            ):
                slot.forget()  # another prompt had the sequence since, perhaps of another scope
        self._note("capture", in_cache, began)

    def _put(
        self, worker: Asker, scope: tuple[str, str], slot: _Slot, tokens: list[int], content: memoryview, stored: int,
    ) -> bool:  # fmt: skip
        """Put what the store has not. False, and nothing is put, where it is of another prompt."""
        try:
            state = parsed(content)
        except ValueError as error:
            self._off = True
            message = f"llama.cpp's cache of this model is of a kind of which no prefixes are kept: {error}"
            raise ValueError(message) from error
        if state.tokens[: len(tokens)].tolist() != tokens:
            return False
        slot.tokens, first = state.tokens, stored // BLOCK
        blocks = [state.block(n * BLOCK, (n + 1) * BLOCK) for n in range(first, len(state.tokens) // BLOCK)]
        question = {
            "do": "put", "model": self._model, "scope": scope, "step": BLOCK, "blocks": blocks,
            "tokens": state.tokens[: (first + len(blocks)) * BLOCK].tolist(), "cost_ms": self._ms["prefill"] * BLOCK,
        }  # fmt: skip
        with worker.ask(question) as put:
            slot.stored = scope, (first + put) * BLOCK
        return True

    # ---- inside ----

    def _taken(self, tokens: list[int], wanted: object) -> _Slot | None:
        """Take the free slot that has the most of the tokens, or that which is wanted; None where it is busy."""
        with self._lock:
            free = [each for each in self._slots if not each.busy and wanted in (None, -1, each.number)]
            slot = max(free, key=lambda each: _common(each.tokens, tokens), default=None)
            if slot is not None:
                slot.busy = True
            return slot

    def _guarded(self, what: str, do: Callable[..., None], *arguments: Any) -> None:
        """Do what may fail; that is told once for each cause."""
        try:
            do(*arguments)
        except (OSError, ValueError, KeyError, TypeError) as error:
            cause = f"a prefix of a prompt could not be {what}, and is worked out: {error}"
            if cause not in self._told and len(self._told) < _CAUSES:
                self._told.add(cause)
                sys.stderr.write(f"{cause}\n")

    def _note(self, what: str, tokens: int, began: float) -> None:
        self._mean(what, tokens, (time.perf_counter() - began) * 1000)

    def _mean(self, what: str, tokens: int, took_ms: float) -> None:
        """Note how long tokens took: each time before counts half as much, and the many of a long prompt more than a few."""
        before_tokens, before_ms = self._of_late.get(what, (0.0, 0.0))
        tokens_of_late, ms_of_late = before_tokens / 2 + tokens, before_ms / 2 + took_ms
        self._of_late[what] = tokens_of_late, ms_of_late
        self._ms[what] = ms_of_late / tokens_of_late


def _mapped(file: BinaryIO) -> memoryview:
    """Return what is in a file, for as long as it is looked at."""
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with alike."""
    first, second = array("i", one), array("i", other)
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    return next(at for at in range(length) if first[at] != second[at])
