"""What fuzzing found, replayed: ``python -m benchmarks.fuzz`` finds more, and prints the lines for the corpus.

Each reader of what others wrote gives its value or its own error, of a bounded length, in bounded memory.
"""

import difflib
import json
import pickle
import tracemalloc
from pathlib import Path

import pytest

from benchmarks.fuzz import NAMES, kept
from benchmarks.fuzz_parsers import PARSERS, outcome

MIB = 2**20


def peak_bytes(name: str, text: bytes, folder: Path) -> tuple[str, int]:
    """Return what came of an input, and the most memory it took."""
    tracemalloc.start()
    try:
        return outcome(PARSERS[name], text, folder), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_a_value_or_its_own_error(name: str, tmp_path: Path) -> None:
    """Every input that ever broke a parser, and those that reach most of it, are answered in little memory."""
    inputs = [text for text, _ in kept(name)]
    outcome(PARSERS[name], b"", tmp_path)  # what it imports
    outcomes = [peak_bytes(name, text, tmp_path) for text in inputs]
    assert max(peak for _, peak in outcomes) < 16 * MIB
    assert len({said for said, _ in outcomes}) > 3, "they reach different ends"


def test_every_sample_is_a_value(tmp_path: Path) -> None:
    """What the fuzzing begins with is read: else it would look at nothing but the first check."""
    pytest.importorskip("torch")
    for name in ("safetensors", "index", "onnx", "torch", "gguf"):
        for seed in PARSERS[name].seeds():
            assert outcome(PARSERS[name], seed, tmp_path) == "value"


def test_names_that_are_shared_take_no_more_than_a_limit(tmp_path: Path) -> None:
    """A dict with long keys that a pickle names 450 times stands for 450 MB of names: it is refused before that."""
    inner = {f"{index:04}" + "x" * 990: index for index in range(1000)}
    said, peak = peak_bytes("pickle", pickle.dumps([inner] * 450, 2), tmp_path)
    assert "names" in said
    assert peak < 64 * MIB


def test_a_complaint_is_no_longer_than_a_reader_takes(tmp_path: Path) -> None:
    """Names in a file may be as long as it: a complaint that quotes one is cut."""
    header = json.dumps({"n" * MIB: {"dtype": "X"}}).encode()
    assert len(outcome(PARSERS["safetensors"], b"\0\0" + header, tmp_path)) < 5000


def test_the_nearest_name_is_looked_for_a_hundred_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More mistakes get no suggestion: 2,000 roles of no model beside 500 models took 20 s."""
    looked: list[str] = []
    nearest = difflib.get_close_matches

    def counted(name: str, *among: object, **how: object) -> list[str]:
        looked.append(name)
        return nearest(name, *among, **how)

    monkeypatch.setattr(difflib, "get_close_matches", counted)
    models = "".join(f" - {{id: model{index}x, external: true, declared_bytes: 1}}\n" for index in range(9))
    roles = "".join(f" r{index}: modil{index}\n" for index in range(300))
    assert outcome(PARSERS["yaml"], f"models:\n{models}roles:\n{roles}".encode(), tmp_path) == "value"
    assert len(looked) == 100


@pytest.mark.parametrize(
    ("tag", "text"), [("bool", "x"), ("int", ""), ("float", ""), ("timestamp", "soon"), ("int", "0x")]
)
def test_a_value_that_is_not_what_its_tag_says_names_its_line(tag: str, text: str, tmp_path: Path) -> None:
    """Whatever yaml itself stumbles over in it."""
    said = outcome(PARSERS["yaml"], f"models:\n - id: !!{tag} '{text}'\n".encode(), tmp_path)
    assert said == f"{tmp_path}/models.yaml:2: {text!r} is no {tag}"
