"""Floating-point operations of a self-attention and of the ΔConvBlock in its place; a multiply-add counts as two.

Element-wise work (softmax, gates, pooling, resampling, biases) is left out on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence


def attention_core_flops(tokens: int, inner_dim: int) -> int:
    """Queries times keys and weights times values, the part that grows with the square of the tokens."""
    return 2 * (2 * tokens * tokens * inner_dim)


def attention_flops(tokens: int, dim: int, inner_dim: int) -> int:
    """Self-attention with its four projections; inner_dim is heads times head width."""
    return 4 * (2 * tokens * dim * inner_dim) + attention_core_flops(tokens, inner_dim)


def pyramid_flops(height: int, width: int, inter: int, kernel_size: int, factors: Sequence[int]) -> int:
    """The depthwise convolutions of all stages on a grid of height x width tokens."""
    return sum(2 * (height // f) * (width // f) * inter * kernel_size**2 for f in factors)


def block_flops(height: int, width: int, dim: int, inter: int, kernel_size: int, factors: Sequence[int]) -> int:
    """The whole ΔConvBlock: in_proj, the convolutions, out_proj, and pool_proj of the mean."""
    tokens = height * width
    in_proj = 2 * tokens * dim * inter
    out_proj = 2 * tokens * (len(factors) * inter // 2) * dim
    pool_proj = 2 * dim * dim
    return in_proj + pyramid_flops(height, width, inter, kernel_size, factors) + out_proj + pool_proj
