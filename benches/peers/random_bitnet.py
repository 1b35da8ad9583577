#!/usr/bin/env python3
"""Write a model of BitNet b1.58 2B-4T's shapes with random weights, for timing: 0.8 GB.

    .venv/bin/pip install gguf==0.19.0
    .venv/bin/python benches/peers/random_bitnet.py bitnet-2b-random.gguf
    .venv/bin/python benches/peers/peers.py --model bitnet-2b-random.gguf --repetitions 5
    .venv/bin/tritlab bench bitnet-2b-random.gguf -f TERNARY,TERNARY_B3 --threads 1,2

30 layers of width 2560 in TQ2_0, embedding and head (one matrix) in Q6_K. Only the shapes are the
real model's: speed does not depend on values. It names its activation, SiLU, because llama.cpp's
graph of this architecture has no other; so the logits of both can be compared.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import gguf
import numpy as np

WIDTH, HIDDEN, LAYERS, VOCAB = 2560, 6912, 30, 128256
HEADS, KV_HEADS = 20, 5
LINEAR = {
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH * KV_HEADS // HEADS, WIDTH),
    "attn_v": (WIDTH * KV_HEADS // HEADS, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (HIDDEN, WIDTH),
    "ffn_up": (HIDDEN, WIDTH),
    "ffn_down": (WIDTH, HIDDEN),
}
NORMS = {"attn_norm": WIDTH, "attn_sub_norm": WIDTH, "ffn_norm": WIDTH, "ffn_sub_norm": HIDDEN}


def half(x: float) -> np.ndarray:
    return np.frombuffer(np.float16(x).tobytes(), np.uint8)


def tq2_0(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """Blocks of 256 codes 0, 1 and 2, four to a byte, and a scale that is the same in all."""
    codes = rng.integers(0, 3, (rows * cols // 256, 2, 4, 32), dtype=np.uint8)
    blocks = np.empty((len(codes), 66), np.uint8)
    blocks[:, :64] = np.bitwise_or.reduce(
        codes << np.arange(0, 8, 2, np.uint8)[:, None], 2
    ).reshape(-1, 64)
    blocks[:, 64:] = half(cols**-0.5)
    return blocks.reshape(rows, -1)


def q6_k(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """Blocks of 256: random codes and scales."""
    blocks = rng.integers(0, 256, (rows * cols // 256, 210), dtype=np.uint8)
    blocks[:, 192:208] = rng.integers(1, 20, (len(blocks), 16))
    blocks[:, 208:] = half(1e-4)
    return blocks.reshape(rows, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    part = out.with_name(f".{out.name}.{os.getpid()}")
    rng = np.random.default_rng(1)
    kinds = gguf.GGMLQuantizationType
    w = gguf.GGUFWriter(part, "bitnet")
    w.add_block_count(LAYERS)
    w.add_context_length(4096)
    w.add_embedding_length(WIDTH)
    w.add_feed_forward_length(HIDDEN)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(VOCAB)
    w.add_rope_dimension_count(WIDTH // HEADS)
    w.add_rope_freq_base(500000.0)
    w.add_string("bitnet.hidden_activation", "silu")
    w.add_tokenizer_model("no_vocab")
    w.add_tensor("token_embd.weight", q6_k(rng, VOCAB, WIDTH), raw_dtype=kinds.Q6_K)
    w.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for i in range(LAYERS):
        for name, shape in LINEAR.items():
            w.add_tensor(f"blk.{i}.{name}.weight", tq2_0(rng, *shape), raw_dtype=kinds.TQ2_0)
        for name, width in NORMS.items():
            w.add_tensor(f"blk.{i}.{name}.weight", np.ones(width, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file(progress=True)
    w.close()
    part.replace(out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
