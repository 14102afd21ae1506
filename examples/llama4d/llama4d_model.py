"""A Llama, cut so that any run of its layers can be one stage of a pipeline.

RMSNorm before each branch, rotary positions, grouped-query attention, SwiGLU, and a head of its own (not tied to the
embedding), after "The Llama 3 Herd of Models" (2024), section 3.2. Layers keep their absolute numbers in every cut, so
a parameter has one name in all layouts and a checkpoint of one loads under any other.

The model knows of context parallelism alone, because attention is the one place where tokens meet; tensor, data and
pipeline parallelism are put around it by `llama4d_parallel` and `llama4d_pipeline`.
"""

import dataclasses
import math
import zlib

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from llama4d_options import ModelConfig

NORM_EPSILON = 1e-5
ROPE_BASE = 500_000.0  # Llama 3
INIT_STD = 0.02


def balanced_positions(sequence: int, parts: int, index: int) -> torch.Tensor:
    """Positions that one of `parts` context ranks holds: (sequence / parts,) int64.

    The sequence is cut into 2 * parts chunks and rank i takes chunks i and 2 * parts - 1 - i, one cheap and one dear
    under a causal mask, so that all ranks have equal work (Llama 3, section 3.3.2).
    """
    if parts == 1:
        return torch.arange(sequence)
    chunks = torch.arange(sequence).view(2 * parts, -1)
    return torch.cat((chunks[index], chunks[2 * parts - 1 - index]))


# torch 2.13 renamed both; older releases have the former names only.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class GatherSequence(torch.autograd.Function):
    """All-gather over the context group; its backward sums every rank's gradient and keeps the own part."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, local: torch.Tensor, group: dist.ProcessGroup
    ) -> torch.Tensor:
        """From (...) on each rank to (ranks, ...) on all."""
        ctx.group = group  # type: ignore[attr-defined]
        gathered = local.new_empty((group.size() * local.shape[0], *local.shape[1:]))
        _all_gather(gathered, local.contiguous(), group=group)
        return gathered.view(group.size(), *local.shape)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """From (ranks, ...) gradients on each rank to the (...) that belongs here."""
        own = grads[0].new_empty(grads[0].shape[1:])
        whole = grads[0].flatten(0, 1).contiguous()
        _reduce_scatter(own, whole, group=ctx.group)  # type: ignore[attr-defined]
        return own, None


@dataclasses.dataclass(frozen=True)
class Context:
    """What attention has to know about where its tokens stand in the whole sequence."""

    sequence: int
    parts: int = 1
    index: int = 0
    group: dist.ProcessGroup | None = None

    @property
    def positions(self) -> torch.Tensor:
        """Of the tokens held here: (sequence / parts,)."""
        return balanced_positions(self.sequence, self.parts, self.index)

    def mask(self) -> torch.Tensor | None:
        """(own tokens, all tokens) bool, true where a query may look; None when plain causal attention will do."""
        if self.group is None:
            return None
        keys = torch.cat([balanced_positions(self.sequence, self.parts, part) for part in range(self.parts)])
        return self.positions[:, None] >= keys[None, :]

    def gather(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, heads, own tokens, head) twice to (batch, heads, all tokens, head) twice, in the mask's order."""
        if self.group is None:
            return keys, values
        gathered = GatherSequence.apply(torch.stack((keys, values)), self.group)  # type: ignore[no-untyped-call]
        whole = gathered.permute(1, 2, 3, 0, 4, 5).flatten(3, 4)
        return whole[0], whole[1]


class Attention(nn.Module):
    """Grouped-query attention over the whole sequence, for the heads and tokens held here."""

    def __init__(self, config: ModelConfig, context: Context, kind: str) -> None:
        super().__init__()
        self.wq = nn.Linear(config.width, config.heads * config.head_size, bias=False)
        self.wk = nn.Linear(config.width, config.kv_heads * config.head_size, bias=False)
        self.wv = nn.Linear(config.width, config.kv_heads * config.head_size, bias=False)
        self.wo = nn.Linear(config.heads * config.head_size, config.width, bias=False)
        self.head_size = config.head_size
        self.context = context
        self.attend = {"sdpa": attend_fused, "matmul": attend_by_products}[kind]

    def forward(self, x: torch.Tensor, rotation: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(batch, own tokens, width) to the same; under tensor parallelism the heads held here add a part of it."""
        batch, tokens = x.shape[:2]
        # The number of heads is left open: tensor parallelism leaves a part of them here.
        queries = rotate(self.wq(x).view(batch, tokens, -1, self.head_size).transpose(1, 2), rotation)
        keys = rotate(self.wk(x).view(batch, tokens, -1, self.head_size).transpose(1, 2), rotation)
        values = self.wv(x).view(batch, tokens, -1, self.head_size).transpose(1, 2)
        keys, values = self.context.gather(keys, values)
        mixed = self.attend(queries, keys, values, mask)
        return self.wo(mixed.transpose(1, 2).reshape(batch, tokens, -1))  # type: ignore[no-any-return]


def attend_fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """(batch, heads, queries, head) from one fused kernel; fewer key heads than query heads are shared."""
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)


def attend_by_products(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The same as two matrix products, which a FLOP counter can see."""
    if mask is None:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    shared = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
    scores = (q @ k.transpose(2, 3)) / math.sqrt(q.shape[3])
    return scores.masked_fill(~mask, -math.inf).softmax(dim=3) @ v


def rotation_table(positions: torch.Tensor, head_size: int) -> torch.Tensor:
    """Cosines and sines of the rotary angles (RoFormer, 2021): (2, tokens, head_size / 2)."""
    frequencies = ROPE_BASE ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angles = positions.to(torch.float64)[:, None] * frequencies[None, :]
    return torch.stack((angles.cos(), angles.sin())).float()


def rotate(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Turns the pair (i, i + head_size / 2) of every head by its position's angle; (batch, heads, tokens, head)."""
    first, second = x.chunk(2, dim=3)
    cosine, sine = rotation
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=3)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.width, config.ffn, bias=False)
        self.w2 = nn.Linear(config.ffn, config.width, bias=False)
        self.w3 = nn.Linear(config.width, config.ffn, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, width) to the same."""
        return self.w2(functional.silu(self.w1(x)) * self.w3(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One transformer layer."""

    def __init__(self, config: ModelConfig, context: Context, kind: str, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=NORM_EPSILON)
        self.attention = Attention(config, context, kind)
        self.ffn_norm = nn.RMSNorm(config.width, eps=NORM_EPSILON)
        self.ffn = FeedForward(config)
        self.dropout = dropout

    def forward(self, x: torch.Tensor, rotation: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(batch, tokens, width) to the same; under tensor parallelism the tokens are this rank's part of them."""
        x = x + self.drop(self.attention(self.attention_norm(x), rotation, mask))
        return x + self.drop(self.ffn(self.ffn_norm(x)))

    def drop(self, x: torch.Tensor) -> torch.Tensor:
        """Dropout on the residual branch, drawn from this rank's own generator."""
        return functional.dropout(x, self.dropout, self.training) if self.dropout else x


class Stage(nn.Module):
    """Some consecutive layers, with the embedding before the first layer and the head after the last."""

    def __init__(self, config: ModelConfig, context: Context, layers: range, kind: str, dropout: float) -> None:
        super().__init__()
        self.is_first, self.is_last = layers.start == 0, layers.stop == config.layers
        if self.is_first:
            self.embedding = nn.Embedding(config.vocab, config.width)
        self.layers = nn.ModuleDict({str(layer): Block(config, context, kind, dropout) for layer in layers})
        if self.is_last:
            self.norm = nn.RMSNorm(config.width, eps=NORM_EPSILON)
            self.output = nn.Linear(config.width, config.vocab, bias=False)
        # Not persistent: both follow from the layout, and a checkpoint has to load under another one.
        self.register_buffer("rotation", rotation_table(context.positions, config.head_size), persistent=False)
        self.register_buffer("mask", context.mask(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Token ids (batch, tokens) at the first stage or a residual stream, to the stream or to logits at the last."""
        if self.is_first:
            x = self.embedding(x)
        for block in self.layers.values():
            x = block(x, self.rotation, self.mask)
        return self.output(self.norm(x)) if self.is_last else x


def initialise(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Fills every weight from the seed and its own name, so that no cut of the model changes where it starts."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.ones_(parameter)
            continue
        generator = torch.Generator().manual_seed(seed * 2**32 + zlib.crc32(name.encode()))
        # Branch outputs start smaller, so that the residual stream keeps its size over depth (GPT-2).
        deep = math.sqrt(2 * config.layers) if name.endswith(("wo.weight", "w2.weight")) else 1.0
        nn.init.normal_(parameter, std=INIT_STD / deep, generator=generator)
