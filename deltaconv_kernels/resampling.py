"""The pyramid's resampling in plain PyTorch, with every position computed in integers.

`torch.nn.functional.interpolate` computes positions in float32, whatever the tensor's type: on a width of 50 001 the
results are wrong in the third digit. `adaptive_avg_pool2d` computes its windows in integers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def pool(planes: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    """[B, C, H, W] to [B, C, h, w] = [B, C, H // factor, W // factor]: means of the windows ⌊i·H/h⌋ to ⌈(i+1)·H/h⌉.

    Down and then across: PyTorch sums a window in one go, which in float32 is too long for a window of a million.
    """
    if factor == 1:
        return planes
    if not all(isinstance(size, int) for size in planes.shape[-2:]):
        return _pool_any_size(planes, grid, factor)
    down = F.adaptive_avg_pool2d(planes, (grid[0], planes.shape[-1]))
    return F.adaptive_avg_pool2d(down, grid)


def _pool_any_size(planes: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    """The same for sizes that a graph leaves open: a window is no longer than twice the factor, minus 1."""
    pixels = planes.permute(0, 2, 3, 1)
    for dim, count in enumerate(grid, start=1):
        n = pixels.shape[dim]
        cell = torch.arange(count, device=planes.device)
        start, end = cell * n // count, ((cell + 1) * n + count - 1) // count
        along = [-1] + [1] * (3 - dim)
        share = 1 / (end - start).to(planes.dtype)
        terms = [
            pixels.index_select(dim, (start + i).clamp(max=n - 1))
            * torch.where(start + i < end, share, 0.0).reshape(along)
            for i in range(2 * factor - 1)
        ]
        pixels = torch.stack(terms).sum(dim=0)
    return pixels.permute(0, 3, 1, 2)


def pool_adjoint(grad: Tensor, planes: Tensor) -> Tensor:
    """The gradient of `pool` of ``planes``."""
    rows = (grad.shape[-2], planes.shape[-1])
    if grad.shape[-2:] != rows:
        grad = torch.ops.aten._adaptive_avg_pool2d_backward(grad, planes[..., : rows[0], :])
    return grad if grad.shape == planes.shape else torch.ops.aten._adaptive_avg_pool2d_backward(grad, planes)


def upsample(planes: Tensor, size: Sequence[int], factor: int) -> Tensor:
    """[B, C, H // factor, W // factor] to [B, C, H, W]: bilinear, align_corners=False."""
    if factor == 1:
        return planes
    pixels = planes.permute(0, 2, 3, 1)  # channels innermost, as they are in the operator's memory
    for dim, wanted in enumerate(size, start=1):
        near, far, share = _neighbours(pixels, dim, wanted)
        below = pixels.index_select(dim, near) * (1 - share)
        pixels = torch.addcmul(below, pixels.index_select(dim, far), share)
    return pixels.permute(0, 3, 1, 2)


def upsample_adjoint(grad: Tensor, grid: Sequence[int]) -> Tensor:
    """The gradient of `upsample` from ``grid``: [B, C, H, W] to [B, C, h, w]."""
    pixels = grad.permute(0, 2, 3, 1)
    for dim, wanted in enumerate(grid, start=1):
        if pixels.shape[dim] != wanted:
            shape = list(pixels.shape)
            shape[dim] = wanted
            sums = pixels.new_zeros(shape)
            near, far, share = _neighbours(sums, dim, pixels.shape[dim])
            pixels = sums.index_add_(dim, near, pixels * (1 - share)).index_add_(dim, far, pixels * share)
    return pixels.permute(0, 3, 1, 2)


def _neighbours(pixels: Tensor, dim: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Along ``dim``, of n numbers, the two that each of ``size`` results lies between, and the second one's share.

    Result i lies at (i + 1/2) · n / size - 1/2 = ((2i + 1) · n - size) / (2 · size), or at 0 if that is negative.
    """
    n = pixels.shape[dim]
    numerator = ((2 * torch.arange(size, device=pixels.device) + 1) * n - size).clamp(min=0)
    near = numerator // (2 * size)
    share = (numerator - near * (2 * size)).to(pixels.dtype) / (2 * size)
    return near, (near + 1).clamp(max=n - 1), share.reshape([-1] + [1] * (3 - dim))
