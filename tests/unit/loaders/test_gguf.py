"""GGUF headers: read as the reference library reads them, within bounds, and what follows for memory."""

import struct
import tracemalloc
from pathlib import Path

import pytest

gguf = pytest.importorskip("gguf")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rigs.gguf_models import CONTEXT, HEADS, KV_HEADS, LAYERS, WIDTH, write_llama
from worker.core.errors import ModelLoadFailedError
from worker.core.models import AUTO_LOADER, ModelSpec, PrefixCache
from worker.loaders.gguf_header import TYPE_SIZES
from worker.loaders.registry import inferred, loader_of

CACHE_BYTES_PER_TOKEN = LAYERS * KV_HEADS * WIDTH // HEADS * 2 * 2
MIB = 2**20


def spec(path: Path, loader: str = "gguf", **params: object) -> ModelSpec:
    return ModelSpec("m", loader, path, path.parent, params=tuple(params.items()))


def estimated(path: Path, **params: object) -> int:
    return loader_of(spec(path)).estimate(spec(path, **params))


def refused(path: Path, **params: object) -> str:
    with pytest.raises(ModelLoadFailedError) as caught:
        loader_of(spec(path)).estimate(spec(path, **params))
    return caught.value.details["cause"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_llama(tmp_path_factory.mktemp("gguf") / "m.gguf")


def test_what_a_model_takes_is_known_from_its_header(model):
    """Its tensors as the reference library counts them, and a cache of keys and values for the whole context."""
    wanted = sum(int(each.n_bytes) for each in gguf.GGUFReader(model).tensors)
    slack = 21 * 32
    for context, params in ((CONTEXT, {}), (256, {"n_ctx": 256}), (512, {"n_ctx": 300})):
        assert 0 <= estimated(model, **params) - wanted - context * CACHE_BYTES_PER_TOKEN < slack
    assert estimated(model, n_ctx=512, n_parallel=2) == estimated(model, n_ctx=512)
    saved = estimated(model, n_ctx=256) - estimated(
        model, n_ctx=256, cache_type_k="q8_0", cache_type_v="q8_0"
    )
    assert saved == 256 * CACHE_BYTES_PER_TOKEN * (32 - 17) // 32


def test_the_sizes_of_types_are_the_reference_librarys():
    """Each type's block has as many elements and bytes as gguf says; ours may know no others."""
    known = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: known.get(kind) for kind in TYPE_SIZES} == TYPE_SIZES


def test_a_file_in_pieces_is_one_model(tmp_path):
    """By its first piece, by its folder: one footprint; a missing piece is named."""
    whole = estimated(write_llama(tmp_path / "whole.gguf"))
    folder = tmp_path / "pieces"
    folder.mkdir()
    write_llama(folder / "m.gguf", split_tensors=8)
    pieces = sorted(folder.glob("*.gguf"))
    assert [each.name for each in pieces] == [f"m-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    by_folder = ModelSpec("m", "gguf", folder, tmp_path)
    for found in (estimated(pieces[0]), loader_of(by_folder).estimate(by_folder)):
        assert abs(found - whole) < 21 * 32
    assert "declare the first of them" in refused(pieces[1])
    several = ModelSpec("m", "gguf", pieces[0], tmp_path, more_paths=(*pieces[1:], tmp_path / "whole.gguf"))
    with pytest.raises(
        ModelLoadFailedError, match="it is in 3, and 4 are declared: declare just those of one model"
    ):
        loader_of(several).estimate(several)
    pieces[2].unlink()
    assert "there is no such file: correct its path" in refused(pieces[0])


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"n_ctxx": 1}, "n_ctx"), ({"n_ctx": "many"}, "n_ctx"), ({"n_ctx": True}, "n_ctx"), ({"threads": -1}, "threads"),
        ({"cache_type_k": "q9"}, "q4_0"), ({"use_mmap": 1}, "true or false"), ({"flash_attn": "yes"}, "auto, on, off"),
    ],
)  # fmt: skip
def test_params_that_mean_nothing_are_refused_by_name(model, params, told):
    """Before anything is started for the model."""
    assert told in refused(model, **params)


def test_the_loader_is_found_by_contents_and_by_its_other_name(model, tmp_path):
    """Whatever the file is called, and as ``llama-cpp`` in a file of models."""
    (tmp_path / "model.bin").write_bytes(model.read_bytes())
    assert inferred(spec(tmp_path / "model.bin", AUTO_LOADER)).loader == "gguf"
    from worker.loaders.models_file import read_models

    (tmp_path / "models.yaml").write_text(
        "models: {m: {path: model.bin, loader: llama-cpp, params: {n_ctx: 256}}}"
    )
    (declared,) = read_models(tmp_path / "models.yaml", tmp_path)
    assert (declared.loader, loader_of(declared).estimate(declared)) == ("gguf", estimated(model, n_ctx=256))


def test_a_second_model_beside_is_no_part_of_it(model, tmp_path):
    """Such as one for pictures: its bytes were counted, and it was not loaded."""
    other = write_llama(tmp_path / "mmproj.gguf")
    beside = ModelSpec("m", "gguf", other, Path("/"), more_paths=(model,))
    with pytest.raises(ModelLoadFailedError, match="it is in 1, and 2 are declared"):
        loader_of(beside).estimate(beside)


def test_every_truncation_is_refused_as_one(model, tmp_path):
    """Cut anywhere, the file is said to be cut short, and what to do."""
    whole = model.read_bytes()
    for size in (*range(4, 2000, 97), *range(2000, len(whole), 4999), len(whole) - 1):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        assert "cut short" in refused(tmp_path / "cut.gguf"), size


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def head(keys: int, *rest: bytes, tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(rest)


ARCHITECTURE = text("general.architecture") + struct.pack("<I", 8) + text("x")
NESTED = b"".join(struct.pack("<IQ", 9, 1) for _ in range(30))
LIES = {
    "many keys": (head(2**62), "more than"),
    "many tensors": (head(0, tensors=2**62), "more than"),
    "a long name": (head(1, struct.pack("<Q", 2**60)), "a name of"),
    "a long text": (head(1, text("k"), struct.pack("<IQ", 8, 2**62)), "cut short"),
    "a long list": (head(1, text("k"), struct.pack("<IIQ", 9, 10, 2**61)), "cut short"),
    "many texts": (head(1, text("k"), struct.pack("<IIQ", 9, 8, 2**61)), "more than"),
    "a nest": (head(1, text("k"), struct.pack("<I", 9), NESTED), "depth"),
    "no such type": (head(1, text("k"), struct.pack("<I", 77)), "type 77"),
    "version 1": (head(0, version=1), "version 1 is not one that is known; convert it anew"),
    "version 4": (head(0, version=4), "version 4 is not one that is known; update memory-worker"),
    "the other byte order": (head(0, version=0x03000000), "other byte order"),
    "no architecture": (head(0), "architecture"),
    "an alignment": (head(1, text("general.alignment"), struct.pack("<II", 4, 3)), "alignment"),
    "dimensions": (head(1, ARCHITECTURE, text("t"), struct.pack("<I", 9), tensors=1), "9 dimensions"),
    "a shape": (head(1, ARCHITECTURE, text("t"), struct.pack("<I4QIQ", 4, *[2**60] * 4, 0, 0), tensors=1), "can't be of shape"),
    "half a block": (head(1, ARCHITECTURE, text("t"), struct.pack("<IQIQ", 1, 33, 2, 0), tensors=1), "can't be of shape"),
    "behind the end": (head(1, ARCHITECTURE, text("t"), struct.pack("<IQIQ", 1, 32, 0, 2**40), tensors=1), "cut short"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies_is_refused_at_little_cost(tmp_path, name):
    """Each lie is named, and takes no memory on the file's word."""
    content, told = LIES[name]
    (tmp_path / "m.gguf").write_bytes(content)
    refused(tmp_path / "m.gguf")
    tracemalloc.start()
    try:
        assert told in refused(tmp_path / "m.gguf")
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data())
def test_changed_bytes_are_an_error_or_a_size(model, tmp_path, data):
    """Whatever is changed in the header: a size that a reply can hold, or one error with its cause."""
    content = bytearray(model.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 6000))] = data.draw(st.integers(0, 255))
    (tmp_path / "m.gguf").write_bytes(content)
    try:
        assert 0 <= estimated(tmp_path / "m.gguf") < 2**63
    except ModelLoadFailedError as error:
        assert error.details["cause"]


def test_layers_may_differ_and_a_file_may_not_say(tmp_path):
    """Heads by layer are added up; where nothing is said of heads the cache is not known, and the weights are."""

    def written(*keys: bytes) -> Path:
        (tmp_path / "m.gguf").write_bytes(head(1 + len(keys), ARCHITECTURE, *keys))
        return tmp_path / "m.gguf"

    def number(key: str, value: int) -> bytes:
        return text(f"x.{key}") + struct.pack("<II", 4, value)

    assert estimated(written()) == 0
    heads = text("x.attention.head_count_kv") + struct.pack("<IIQ3I", 9, 4, 3, 1, 2, 0)
    common = (
        number("block_count", 3),
        number("attention.head_count", 4),
        number("embedding_length", 64),
        heads,
    )
    assert estimated(written(*common), n_ctx=256) == 256 * (1 + 2) * 16 * 2 * 2
    wide = (*common, number("attention.key_length", 100), number("attention.value_length", 50))
    assert estimated(written(*wide), n_ctx=256) == 256 * (1 + 2) * 150 * 2
    assert estimated(written(*common), n_ctx=2**24) < 2**40
    huge = (
        number("block_count", 2**32 - 1),
        number("attention.head_count", 4),
        number("embedding_length", 64),
    )
    assert estimated(written(*huge), n_ctx=256) == 0


def test_the_store_of_prefixes_is_named_after_the_model_and_has_its_bound(model):
    """None without it; a size as people write it; what is none is refused by name."""
    pytest.importorskip("xllamacpp")
    loader = loader_of(spec(model))
    assert loader.launch(spec(model)).prefixes is None
    launch = loader.launch(spec(model, prefix_cache="64MiB", prefix_cache_persist=True))
    assert launch.prefixes == PrefixCache("prefix:m", 64 * 2**20, persist=True)
    assert launch.params["files"] == [str(model)]
    for wrong in ("much", -1, True, "0"):
        with pytest.raises(ModelLoadFailedError, match="prefix_cache is to be a size"):
            loader.launch(spec(model, prefix_cache=wrong))
