"""Floating-point operations of the operator, also for `torch.utils.flop_counter.FlopCounterMode`.

A multiply-add counts as two. Pooling, gates, biases and resampling are left out, as the counter leaves out what is
element-wise elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.flop_counter import register_flop_formula

from . import block_ops  # noqa: F401  declares the operators
from .namespace import operators
from .reference import stage_sizes


def pyramid_flops(shape: Sequence[int], kernel_size: int, factors: Sequence[int]) -> int:
    """The depthwise convolutions of all stages on x of `shape` [B, H, W, C]."""
    batch, height, width, channels = shape
    pixels = sum(h * w for h, w in stage_sizes(height, width, factors))
    return 2 * kernel_size**2 * channels * batch * pixels


@register_flop_formula(operators.pyramid)
def _forward_flops(
    x_shape: Sequence[int], weight_shape: Sequence[int], bias_shape: Any, factors: Sequence[int], *_: Any, **__: Any
) -> int:
    return pyramid_flops(x_shape, weight_shape[1], factors)


@register_flop_formula(operators.pyramid_backward)
def _backward_flops(
    grad_shape: Sequence[int],
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    bias_shape: Any,
    factors: Sequence[int],
    gate: str,
    gate_scale: float,
    output_mask: Sequence[bool],
    **_: Any,
) -> int:
    """The forward convolutions, which backward repeats for the gate, and as many for x and for weight where wanted."""
    wants_x, wants_weight, _wants_bias = output_mask
    return (1 + wants_x + wants_weight) * pyramid_flops(x_shape, weight_shape[1], factors)


@register_flop_formula([operators.block, operators.block_cuda])
def _block_flops(
    x_shape: Sequence[int],
    in_weight: Sequence[int],
    in_bias: Any,
    weight: Sequence[int],
    bias: Any,
    out_weight: Sequence[int],
    out_bias: Any,
    pool_weight: Any,
    pool_bias: Any,
    factors: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """The pyramid, two projections of every pixel, and one of the mean."""
    batch, height, width, dim = x_shape
    inter, local = in_weight[0], out_weight[1]
    projections = 2 * batch * (height * width * dim * (inter + local) + dim * dim)
    return projections + pyramid_flops((batch, height, width, inter), weight[1], factors)
