"""The block of BitNet in torch: a decoder that both members of a comparison can share.

RMSNorm before attention and feed-forward, and once more inside each before its last projection
("sub-norms"), rotary positions on halves of a head, gated feed-forward, tied embedding: the graph
of Hugging Face's `BitNetForCausalLM` (its names are used here) and of llama.cpp's `bitnet`. Linear
layers are plain; `replace_linear` makes them BitLinear.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a `Decoder`; the fields are keys of config.json."""

    vocab_size: int
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    max_position_embeddings: int = 512
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    hidden_act: str = "silu"  # or relu2, as in BitNet 2B-4T

    def to_dict(self) -> dict[str, Any]:
        """config.json of Hugging Face's BitNet form, without `quantization_config`."""
        return {
            "architectures": ["BitNetForCausalLM"],
            "model_type": "bitnet",
            **asdict(self),
            "tie_word_embeddings": True,
            "attention_bias": False,
        }


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight, in float32 (arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., size], in its own dtype."""
        f = x.float()
        f = f * torch.rsqrt(f.square().mean(-1, keepdim=True) + self.eps)
        return (f * self.weight).to(x.dtype)


class Attention(nn.Module):
    """Causal attention with rotary positions, and a norm before its output projection."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = c.num_attention_heads, c.num_key_value_heads
        self.size = c.hidden_size // self.heads
        kv = self.kv_heads * self.size
        self.q_proj = nn.Linear(c.hidden_size, c.hidden_size, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, kv, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, kv, bias=False)
        self.o_proj = nn.Linear(c.hidden_size, c.hidden_size, bias=False)
        self.attn_sub_norm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`x` [batch, time, hidden]; `cos`, `sin` [time, head size]."""
        batch, time, hidden = x.shape

        def heads(y: Tensor, count: int) -> Tensor:
            return y.view(batch, time, count, self.size).transpose(1, 2)

        q = rotate(heads(self.q_proj(x), self.heads), cos, sin)
        k = rotate(heads(self.k_proj(x), self.kv_heads), cos, sin)
        v = heads(self.v_proj(x), self.kv_heads)
        grouped = self.heads != self.kv_heads
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        y = y.transpose(1, 2).reshape(batch, time, hidden)
        out: Tensor = self.o_proj(self.attn_sub_norm(y))
        return out


class MLP(nn.Module):
    """down(norm(act(gate x) · up x))."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)
        self.ffn_sub_norm = RMSNorm(c.intermediate_size, c.rms_norm_eps)
        self.act = {"silu": F.silu, "relu2": lambda x: F.relu(x).square()}[c.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., hidden]."""
        y = self.act(self.gate_proj(x)) * self.up_proj(x)
        out: Tensor = self.down_proj(self.ffn_sub_norm(y))
        return out


class Layer(nn.Module):
    """One block: attention and feed-forward, each added to the residual stream."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MLP(c)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`x` [batch, time, hidden]."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    """Token ids [batch, time] to logits [batch, time, vocabulary]."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(config.vocab_size, config.hidden_size),
                "layers": nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers)),
                "norm": RMSNorm(config.hidden_size, config.rms_norm_eps),
            }
        )
        size = config.hidden_size // config.num_attention_heads
        cos, sin = rope(config.max_position_embeddings, size, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise()

    cos: Tensor
    sin: Tensor

    def _initialise(self) -> None:
        """Normal(0, 0.02), projections into the residual stream smaller (GPT-2)."""
        into_stream = 0.02 / math.sqrt(2 * self.config.num_hidden_layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                small = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=into_stream if small else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """`ids` int64 [batch, time]."""
        time = ids.shape[1]
        cos, sin = self.cos[:time], self.sin[:time]
        x = self.model["embed_tokens"](ids)
        for layer in self.model["layers"]:
            x = layer(x, cos, sin)
        return F.linear(self.model["norm"](x), self.model["embed_tokens"].weight)


def rope(positions: int, size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [positions, size], the second half a copy of the first."""
    frequency = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.outer(torch.arange(positions, dtype=torch.float64), frequency).repeat(1, 2)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on halves of a head (arXiv 2104.09864, as GPT-NeoX pairs the elements)."""
    a, b = x.chunk(2, -1)
    return (x * cos + torch.cat((-b, a), -1) * sin).to(x.dtype)
