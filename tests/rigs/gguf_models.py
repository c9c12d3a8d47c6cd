"""Tiny models for llama.cpp, written by the reference library: random weights, a vocabulary of all bytes."""

from pathlib import Path
from typing import Any

LAYERS, WIDTH, HEADS, KV_HEADS, INNER, CONTEXT = 2, 32, 4, 2, 64, 512


def write_llama(path: Path, *, split_tensors: int = 0, seed: int = 1, **sizes: int) -> Path:
    """Write a model of llama's architecture; ``split_tensors``: in files of so many tensors each. Returns the path."""
    import numpy as np
    from gguf import GGUFWriter

    layers, width, inner = sizes.get("layers", LAYERS), sizes.get("width", WIDTH), sizes.get("inner", INNER)
    chance = np.random.default_rng(seed)
    writer: Any = GGUFWriter(path, "llama", split_max_tensors=split_tensors)
    writer.add_context_length(sizes.get("context", CONTEXT))
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // HEADS)
    tokens = [
        b"<unk>",
        b"<s>",
        b"</s>",
        *(f"<0x{byte:02X}>".encode() for byte in range(256)),
        b"\xe2\x96\x81",
        b"a",
    ]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 3 + [-1000.0] * 256 + [-1.0] * 2)
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * 2)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_vocab_size(len(tokens))

    def add(name: str, *shape: int) -> None:
        norm = len(shape) == 1
        content = np.ones(shape) if norm else chance.standard_normal(shape) * 0.3
        writer.add_tensor(f"{name}.weight", content.astype(np.float32))

    add("token_embd", len(tokens), width)
    add("output_norm", width)
    add("output", len(tokens), width)
    for layer in range(layers):
        at, narrow = f"blk.{layer}", width // HEADS * KV_HEADS
        for name in ("attn_norm", "ffn_norm"):
            add(f"{at}.{name}", width)
        for name, *shape in (
            ("attn_q", width, width), ("attn_k", narrow, width), ("attn_v", narrow, width), ("attn_output", width, width),
            ("ffn_gate", inner, width), ("ffn_up", inner, width), ("ffn_down", width, inner),
        ):  # fmt: skip
            add(f"{at}.{name}", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
