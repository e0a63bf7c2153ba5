"""Attention to a K x K window around each query, with or without the mean of what lies outside."""

from __future__ import annotations

import torch
from torch import Tensor

from .geometry import Grid, chebyshev

WITH_MEAN, WINDOW_ONLY = "window and mean", "window alone"
KINDS = (WITH_MEAN, WINDOW_ONLY)


def windowed_outputs(
    weights: Tensor, value: Tensor, queries: Tensor, grid: Grid, kernel_sizes: list[int], kind: str = WITH_MEAN
) -> list[Tensor]:
    """What queries gather when attention is exact in a window, for each of several sizes.

    "window and mean": the weight that a query gives to keys outside its window goes to them in equal parts. The result
    is the sum of a local part and of a constant bias times the mean over all tokens (ΔConvFusion, arXiv 2504.21292).
    "window alone": the weights in the window are scaled to add up to one (neighbourhood attention). Windows are cut at
    the border, as a zero-padded convolution's are.

    Args:
        weights: [B, heads, M, N], of each query over all keys, adding up to one.
        value: [B, heads, N, D].
        queries: M indices of tokens.
        grid: H, W with H * W = N.
        kernel_sizes: odd, or 0 for windows without a key.
        kind: one of KINDS.

    Returns:
        Of each size [B, heads, M, D].
    """
    reach = chebyshev(queries, grid)  # [M, N]
    total = value.sum(-2, keepdim=True)
    outputs = []
    for kernel_size in kernel_sizes:
        inside = (reach <= (kernel_size - 1) // 2).to(value.dtype)  # [M, N]
        kept = weights * inside
        local, share = kept @ value, kept.sum(-1, keepdim=True)
        if kind == WINDOW_ONLY:
            outputs.append(local / share.clamp(min=torch.finfo(share.dtype).tiny))
            continue
        outside = inside.shape[-1] - inside.sum(-1, keepdim=True)  # [M, 1]
        mean = (total - inside @ value) / outside.clamp(min=1)
        outputs.append(local + (1 - share) * (outside > 0) * mean)
    return outputs
