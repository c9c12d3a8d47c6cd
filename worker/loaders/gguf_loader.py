"""Models for llama.cpp, which runs them in a process of its own: what a GGUF file and the model's ``params`` come to.

The library is not needed for that, and is not imported here.
"""

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from protocol.record import Record
from worker.backends.engines.base import EngineLaunch
from worker.core.models import ModelSpec, PrefixCache
from worker.loaders.base import load_failed, naming, reading
from worker.loaders.file_kind import check_kind, head_of
from worker.loaders.gguf_header import TYPE_SIZES, GgufHeader, read_header
from worker.loaders.model_path import ModelFiles, model_files, open_file
from worker.loaders.params import Params
from worker.loaders.positional_file import PositionalFile

DEFAULT_CONTEXT = 4096
"""Tokens, where ``n_ctx`` is not declared and the model was trained for more: its cache is held from the start."""
CACHE_TYPES = {
    "f32": 0,
    "f16": 1,
    "bf16": 30,
    "q8_0": 8,
    "q4_0": 2,
    "q4_1": 3,
    "iq4_nl": 20,
    "q5_0": 6,
    "q5_1": 7,
}
"""ggml's types that llama.cpp takes for its cache."""
_CONTEXT_STEP = 256
"""llama.cpp rounds the context of a sequence up to a multiple of this."""
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
REMEDIES = {"xllamacpp": "pip install memory-worker[gguf]"}
NEEDS = f"it needs xllamacpp, which is not installed: {REMEDIES['xllamacpp']}"
ENGINE = "worker.backends.engines.llama:LlamaEngine"


class Opened(Record):
    """A model's files, its header, and what its ``params`` come to."""

    files: ModelFiles
    header: GgufHeader
    weight_bytes: int
    params: dict[str, Any]

    @property
    def size_bytes(self) -> int:
        """The weights and the cache."""
        return self.weight_bytes + int(self.params["kv_bytes"] or 0)


class GgufLoader:
    """An EngineLoader."""

    def estimate(self, spec: ModelSpec) -> int | None:
        """Return the weights' bytes and the cache's; working memory is seen when it is there."""
        return _opened(spec).size_bytes

    def launch(self, spec: ModelSpec) -> EngineLaunch:
        """Check header and params, and return what the process opens."""
        opened = _opened(spec)
        if find_spec("xllamacpp") is None:
            raise load_failed(spec, NEEDS)
        # Several files find each other by their names, and those are where they are declared.
        path = opened.files.real[0] if len(opened.files.real) == 1 else opened.files.declared[0]
        return EngineLaunch(
            ENGINE, path, opened.params | {"device": self.device_id(spec), "files": [*map(str, opened.files.real)]}, files=opened.files.real, remedies=REMEDIES,
            group=spec.engine_group, estimated_bytes=opened.size_bytes, prefixes=_prefixes_of(spec, opened.params),
        )  # fmt: skip

    def device_id(self, spec: ModelSpec) -> str | None:
        """Return the declared device, unless all layers stay in the machine's memory."""
        return spec.device_id if dict(spec.params).get("n_gpu_layers", 0) else None


def _prefixes_of(spec: ModelSpec, params: Mapping[str, Any]) -> PrefixCache | None:
    """Return the store of what it makes of prompts' beginnings, which is named after the model."""
    if not params["prefix_cache"]:
        return None
    return PrefixCache(f"prefix:{spec.model_id}", params["prefix_cache"], params["prefix_cache_persist"])


def _opened(spec: ModelSpec) -> Opened:
    """Read all headers, and what is declared. ModelLoadFailedError with the cause."""
    files = model_files(spec)
    named = zip(files.real, files.names(spec), strict=True)
    headers = [_header_of(spec, path, name) for path, name in named]
    said = headers[0].values.get("split.count")
    parts = said if isinstance(said, int) and said > 1 else 1
    if len(headers) == 1 and parts > 1:
        return _opened(_with_all_parts(spec, files, parts))
    if len(headers) != parts:
        what = f"is split into {parts} files, of which" if len(headers) < parts else f"is in {parts}, and"
        raise load_failed(
            spec, f"it {what} {len(headers)} are declared: declare just those of one model, or their folder"
        )
    weights = sum(each.weight_bytes for each in headers)
    return Opened(files, headers[0], weights, _params_of(spec, headers[0]))


def _header_of(spec: ModelSpec, path: Path, name: str | None) -> GgufHeader:
    with (
        naming(spec, name),
        closing(PositionalFile(*open_file(spec, path))) as file,
        reading(spec),
    ):
        check_kind("gguf", head_of(file), file.size_bytes)
        return read_header(file)


def _with_all_parts(spec: ModelSpec, files: ModelFiles, parts: int) -> ModelSpec:
    """Declare the files that a split model's first one goes with, by its name."""
    first = files.declared[0]
    match = _SPLIT.search(first.name)
    if match is None or int(match[1]) != 1 or int(match[2]) != parts:
        raise load_failed(
            spec, f"it is one of {parts} files of a model: declare the first of them, or their folder"
        )
    stem = first.name[: match.start()]
    others = tuple(
        first.with_name(f"{stem}-{number:05}-of-{parts:05}.gguf") for number in range(2, parts + 1)
    )
    return replace(spec, path=first, more_paths=others)


def _params_of(spec: ModelSpec, header: GgufHeader) -> dict[str, Any]:
    """Check what is declared, and work out the context and what its cache takes."""
    given = Params(spec, "gguf")
    trained = header.number("context_length")
    context = given.whole("n_ctx", 0, 2**24) or min(trained or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    sequences = given.whole("n_parallel", 1, 256, 1)
    kinds = {name: given.word(name, CACHE_TYPES, "f16") for name in ("cache_type_k", "cache_type_v")}
    per_token = cache_bytes_per_token(header, kinds)
    rounded = -(-context // sequences // _CONTEXT_STEP) * _CONTEXT_STEP * sequences
    found = {
        "n_ctx": context,
        "n_parallel": sequences,
        **{name: CACHE_TYPES[kind] for name, kind in kinds.items()},
        "n_gpu_layers": given.whole("n_gpu_layers", -1, 10_000, 0),
        "n_threads": given.whole("n_threads", 0, 1024, 0) or given.whole("threads", 0, 1024, 0),
        "n_batch": given.whole("n_batch", 1, 2**20, 2048),
        "n_ubatch": given.whole("n_ubatch", 1, 2**20, 512),
        "main_gpu": given.whole("main_gpu", 0, 64, 0),
        "flash_attn": given.word("flash_attn", ("auto", "on", "off"), "auto"),
        "use_mmap": given.flag("use_mmap", otherwise=True),
        "use_mlock": given.flag("use_mlock", otherwise=False),
        "embedding": given.flag("embedding", otherwise=False),
        "pooling_type": given.word("pooling_type", ("none", "mean", "cls", "last", "rank"), None),
        "prompt_cache_mib": given.whole("prompt_cache_mib", 0, 2**20, 0),
        "prefix_cache": given.size("prefix_cache"),
        "prefix_cache_persist": given.flag("prefix_cache_persist", otherwise=False),
        "kv_bytes": None if per_token is None else per_token * rounded,
        "kv_bytes_per_token": per_token,
    }
    given.check()
    return found


def cache_bytes_per_token(header: GgufHeader, kinds: Mapping[str, str]) -> int | None:
    """Return what a token takes in the cache; at most that, where layers look back less far. None if it can't be told."""
    layers = header.number("block_count")
    heads, all_heads = (
        header.numbers("attention.head_count_kv", layers),
        header.numbers("attention.head_count", layers),
    )
    heads = heads if heads is not None else all_heads
    if not layers or not heads or not all_heads or max(all_heads) < 1:
        return None
    width = header.number("embedding_length") // max(all_heads)
    bits = 0
    for name, length in (
        ("cache_type_k", "attention.key_length"),
        ("cache_type_v", "attention.value_length"),
    ):
        block, size = TYPE_SIZES[CACHE_TYPES[kinds[name]]]
        bits += sum(heads) * header.number(length, width) * size * 8 // block
    return bits // 8
