"""Attention of known locality: maps, and an attention module whose weights fall off like a Gaussian."""

from __future__ import annotations

from collections.abc import Callable

import torch
from deltaconv_distill.analysis.receptive_field import FieldSums
from deltaconv_distill.analysis.recording import LayerSums
from deltaconv_distill.analysis.sums import AttentionSums
from diffusers.models.attention_processor import Attention
from torch import Tensor

Strength = Callable[[Tensor, Tensor], Tensor]


def tokens_of(grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column of each token."""
    index = torch.arange(grid[0] * grid[1])
    return index // grid[1], index % grid[1]


def middle(grid: tuple[int, int], reach: int) -> Tensor:
    """The tokens at most `reach` rows and columns from the middle one."""
    y, x = tokens_of(grid)
    return ((y - grid[0] // 2).abs().le(reach) & (x - grid[1] // 2).abs().le(reach)).nonzero().flatten()


def attention_map(strength: Strength, grid: tuple[int, int], queries: Tensor) -> Tensor:
    """[1, 1, M, N]: each query's attention, in proportion to strength(dy, dx) and adding up to one."""
    y, x = tokens_of(grid)
    dy, dx = (y - y[queries, None]).double(), (x - x[queries, None]).double()
    weights = strength(dy, dx)
    return (weights / weights.sum(-1, keepdim=True)).float()[None, None]


def uniform(dy: Tensor, dx: Tensor) -> Tensor:
    return torch.ones_like(dy)


def delta(dy: Tensor, dx: Tensor) -> Tensor:
    return ((dy == 0) & (dx == 0)).double()


def gaussian(sigma_y: float, sigma_x: float | None = None) -> Strength:
    sigma_x = sigma_x or sigma_y
    return lambda dy, dx: torch.exp(-(dy**2) / (2 * sigma_y**2) - dx**2 / (2 * sigma_x**2))


def diagonal(dy: Tensor, dx: Tensor) -> Tensor:
    return (dy == dx).double()


def layer_sums(strength: Strength, grid: tuple[int, int], queries: Tensor, bias: float = 0.0) -> LayerSums:
    """One head at timestep 500; a share `bias` of the attention is the same for all keys. Values are noise."""
    tokens = grid[0] * grid[1]
    weights = (1 - bias) * attention_map(strength, grid, queries) + bias / tokens
    sums = AttentionSums(grid, heads=1, kernel_sizes=list(range(1, min(31, 2 * max(grid) - 1) + 1, 2)))
    sums.add_attention(weights, queries)
    value = torch.randn(1, 1, tokens, 8, generator=torch.Generator().manual_seed(0))
    sums.add_outputs([(queries, weights)], value)
    field = FieldSums(grid)
    field.strength += 1
    field.pairs += 1
    return LayerSums(grid, 1, 8, {500: sums}, {500: field}, queries=len(queries))


def gaussian_attention(sigma: float, width: int = 8) -> Attention:
    """A layer that weights keys by exp(-distance² / (2 sigma²)) on `positions` and has one head."""
    torch.manual_seed(0)
    attention = Attention(query_dim=width, heads=1, dim_head=width, bias=False).requires_grad_(False)
    attention.to_q.weight.zero_()
    attention.to_k.weight.zero_()
    scale = width**0.5 / sigma**2  # attention divides by sqrt(width)
    for channel in (0, 1):  # y y' + x x'
        attention.to_q.weight[channel, channel] = scale
        attention.to_k.weight[channel, channel] = 1
    attention.to_q.weight[2, 3] = scale  # 1 times -(y'² + x'²) / 2
    attention.to_k.weight[2, 2] = -0.5
    return attention.eval()


def positions(grid: tuple[int, int], width: int = 8) -> Tensor:
    """[1, N, width]: y, x, y² + x², and ones."""
    y, x = (values.float() for values in tokens_of(grid))
    tokens = torch.ones(1, len(y), width)
    tokens[0, :, :3] = torch.stack([y, x, y**2 + x**2], dim=-1)
    return tokens
