"""Pyramid filters whose joint effect comes nearest to a wanted map over displacements.

A stage of factor f sees averages of f x f tokens and is upsampled again, so that a tap of its filter acts at a spread
of displacements, and at another one for each position within an f x f cell; here their mean over the positions counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Of the mean energy of a tap: settles taps that the map does not reach, at zero, and little else.
RIDGE = 1e-3


def filters_for(wanted: Tensor, pairs: Tensor, kernel_size: int, factors: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Least squares over displacements, each weighted by how many pairs of tokens are that far apart.

    Args:
        wanted: [G, 2R+1, 2R+1] in full-resolution tokens, displacement 0 at [R, R].
        pairs: [2R+1, 2R+1].

    Returns:
        Filters [G, S, K, K] and their joint effect, [G, 2R+1, 2R+1], in float32.
    """
    effect = _effects(kernel_size, factors, wanted.shape[-1] // 2)  # [taps, displacements]
    weighted = effect * (pairs.flatten() / pairs.sum())
    gram = weighted @ effect.mT
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    taps = torch.linalg.solve(gram, weighted @ wanted.double().flatten(1).mT)  # [taps, G]
    kernels = taps.mT.reshape(-1, len(factors), kernel_size, kernel_size)
    return kernels.float(), (effect.mT @ taps).mT.reshape(wanted.shape).float()


def _effects(kernel_size: int, factors: Sequence[int], reach: int) -> Tensor:
    """[S * K * K, (2R+1)²] in float64: where each tap of each stage acts."""
    stages = []
    for factor in factors:
        line = _line_effects(kernel_size, factor, reach)
        stages.append(torch.einsum("ay,bx->abyx", line, line).flatten(2).flatten(0, 1))
    return torch.cat(stages)


def _line_effects(kernel_size: int, factor: int, reach: int) -> Tensor:
    """[K, 2R+1]: one direction of `_effects`, which is separable."""
    spread = _spread(factor)
    line = torch.zeros(kernel_size, 2 * reach + 1, dtype=torch.float64)
    for tap in range(kernel_size):
        first = factor * (tap - kernel_size // 2) - len(spread) // 2 + reach
        for position, value in enumerate(spread.tolist(), first):
            if 0 <= position < line.shape[1]:
                line[tap, position] += value
    return line


def _spread(factor: int) -> Tensor:
    """Weights of the displacements -(2f-1) … 2f-1 in upsampling by f after averaging over f, both as in the pyramid."""
    cells, reach = 7, 2 * factor - 1
    up = F.interpolate(torch.eye(cells, dtype=torch.float64)[None], scale_factor=factor, mode="linear")[0]
    through = up.mT @ torch.eye(cells, dtype=torch.float64).repeat_interleave(factor, dim=1) / factor  # [to, from]
    middle = range(cells // 2 * factor, (cells // 2 + 1) * factor)
    return torch.stack([through[to, to - reach : to + reach + 1] for to in middle]).mean(0)
