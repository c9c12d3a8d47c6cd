"""Prompts that begin alike, with a store of prefixes (``prefix_cache``) and without: time to the first token, through a worker.

    python -m benchmarks.prefix_cache --layers 6 --width 768 --tokens 1022

A llama of random weights, written for it; each round has a prompt of its own, and all figures of it are of that round. A
token is a byte of the prompt here. The floor is llama.cpp's own cache of the sequence that is still there.
"""

import argparse
import json
import random
import string
import tempfile
from pathlib import Path

from benchmarks.harness import Peer, interleaved, row, seconds, worker
from tests.rigs.gguf_models import write_llama

END = 40
"""Tokens after what prompts have in common."""


class Rounds:
    """What is measured, in turn, with one prompt a round."""

    def __init__(self, peer: Peer, tokens: int) -> None:
        self.peer = peer
        self.tokens = tokens
        self.chance = random.Random(1)
        self.prompt = ""
        self.per_token: dict[str, float] = {}
        """What the engine measured, in milliseconds."""

    def text(self, length: int) -> str:
        return "".join(self.chance.choices(string.ascii_lowercase, k=length))

    def write(self, model: str, prompt: str) -> float:
        """Time one token of a prompt."""
        asked = {"prompt": prompt, "max_tokens": 1, "temperature": 0}
        return 1000 * seconds(lambda: self.peer.ask(f"test.{model}", **asked))

    def anew(self, model: str) -> None:
        name = {"write": "writer", "write_plainly": "plain"}[model]
        self.peer.ask("memory.unload_model", model_id=name)
        self.peer.ask("memory.load_model", model_id=name)
        self.write(model, "warm up")

    def plain(self) -> float:
        """A new prompt, without a store."""
        self.prompt = self.text(self.tokens)
        return self.write("write_plainly", self.prompt + self.text(END))

    def in_slot(self) -> float:
        """It begins as the one before, without a store."""
        return self.write("write_plainly", self.prompt + self.text(END))

    def plain_anew(self) -> float:
        """It begins as the one before, without a store, and the model was loaded anew."""
        self.anew("write_plainly")
        return self.write("write_plainly", self.prompt + self.text(END))

    def first(self) -> float:
        """The same new prompt, which is put into the store."""
        took = self.write("write", self.prompt + self.text(END))
        self.per_token |= self.peer.ask("test.measured")
        return took

    def stored(self) -> float:
        """It begins as the one before, and another was in between."""
        self.write("write", self.text(100))
        return self.write("write", self.prompt + self.text(END))

    def stored_anew(self) -> float:
        """It begins as the one before, and the model was loaded anew."""
        self.anew("write")
        return self.write("write", self.prompt + self.text(END))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prefix_cache", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--tokens", type=int, default=1022)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = write_llama(
            Path(folder) / "m.gguf", layers=arguments.layers, width=arguments.width,
            inner=arguments.width * 8 // 3, context=4096,
        )  # fmt: skip
        params = {"n_ctx": 4096, "threads": arguments.threads}
        models = {
            "writer": {"path": model.name, "params": params | {"prefix_cache": "1GiB"}},
            "plain": {"path": model.name, "params": params},
        }
        (Path(folder) / "models.yaml").write_text(json.dumps({"models": models}))
        more = ("--models", f"{folder}/models.yaml", "--plugin", "tests.rigs.prefix_plugin")
        with worker(*more) as peer:
            rounds = Rounds(peer, arguments.tokens)
            for each in ("write", "write_plainly"):
                rounds.write(each, "warm up")
            plain, in_slot, first, stored, plain_anew, stored_anew = interleaved(
                arguments.rounds, rounds.plain, rounds.in_slot, rounds.first, rounds.stored, rounds.plain_anew,
                rounds.stored_anew,
            )  # fmt: skip
            rounds.per_token |= peer.ask("test.measured")
            (kept,) = peer.ask("store.stats", store="prefix:writer")["stores"]
        size = model.stat().st_size >> 20
    print(
        f"\n{size} MiB of weights, {arguments.tokens} tokens in common and {END} more, {arguments.rounds} rounds"
    )
    print(f"{'':44} {'ms':>10} {'floor':>10}")
    row("first prompt: with a store against without", first, plain, "ms", "<= 1.1x")
    row("it begins alike: from the store against anew", stored, plain, "ms", "<= 0.3x")
    row("  against llama.cpp's own slot", stored, in_slot, "ms", "")
    row("after the model was loaded anew", stored_anew, plain_anew, "ms", "<= 0.3x")
    took = ", ".join(f"{name} {ms:.3f}" for name, ms in rounds.per_token.items())
    print(f"a token, in ms, as the engine measured it of late: {took}")
    print(
        f"kept: {kept['entry_count']} blocks, {kept['held_bytes'] >> 20} MiB, saved {kept['saved_ms']:.0f} ms of prefill"
    )


if __name__ == "__main__":
    main()
