"""What sums by displacement say about attention: profiles, shares, anisotropy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .fitting import Fit
from .geometry import Grid, displacement_axes, distances, window_reach, window_sizes


@dataclass(frozen=True)
class Radial:
    """Strength against distance, in rings one token wide.

    distance: [D], mean distance in tokens; strength: [..., D], mean probability of a key; pairs: [D], how many
    query–key pairs in bounds it is the mean of. A ring without pairs has strength 0.
    """

    distance: Tensor
    strength: Tensor
    pairs: Tensor


def rings(grid: Grid) -> Tensor:
    """The ring that each displacement is in, its distance rounded: int64 [2H - 1, 2W - 1]."""
    return distances(grid).round().long()


def radial_profile(relative: Tensor, pairs: Tensor, grid: Grid) -> Radial:
    """relative: [..., 2H - 1, 2W - 1], sums by displacement of `pairs` [2H - 1, 2W - 1] pairs each."""
    ring = rings(grid).flatten()
    count = int(ring.max()) + 1

    def gather(values: Tensor) -> Tensor:
        values = values.flatten(-2)
        return values.new_zeros(*values.shape[:-1], count).index_add(-1, ring, values)

    number = gather(pairs)
    distance = gather(distances(grid) * pairs) / number.clamp(min=1)
    distance = torch.where(number > 0, distance, torch.arange(count))
    return Radial(distance, gather(relative) / number.clamp(min=1), number)


def sum_by_window(values: Tensor, grid: Grid, sizes: list[int]) -> Tensor:
    """Sums of values [..., 2H - 1, 2W - 1] over the K x K windows of these sizes: [..., sizes]."""
    steps = (window_reach(grid).flatten() - 1) // 2
    by_step = values.new_zeros(*values.shape[:-2], max(grid)).index_add(-1, steps, values.flatten(-2))
    return by_step.cumsum(-1)[..., [(size - 1) // 2 for size in sizes]]


def local_region(radial: Radial, bias: float, grid: Grid) -> Tensor:
    """Where attention is local: out to the first ring whose strength falls to the bias. Bool [2H - 1, 2W - 1].

    radial: of one head or of a mean over heads, strength [D].
    """
    fallen = ((radial.strength <= bias) & (radial.pairs > 0)).nonzero()
    reach = int(fallen[0]) if len(fallen) else len(radial.strength)
    return rings(grid) < reach


def local_part(relative: Tensor, pairs: Tensor, radial: Radial, fit: Fit, grid: Grid) -> Tensor:
    """Attention above the bias in the local region, in sums by displacement: [2H - 1, 2W - 1].

    Nothing where the fit has no local part: what is above the bias there is noise.
    """
    if fit.amplitude == 0:
        return torch.zeros_like(relative)
    return (relative - fit.bias * pairs) * local_region(radial, fit.bias, grid)


def covering_window(values: Tensor, grid: Grid, share: float) -> int:
    """The smallest odd K whose K x K window holds `share` of values [2H - 1, 2W - 1]; 1 if they add up to nothing."""
    sizes = window_sizes(grid, 2 * max(grid))
    held = sum_by_window(values, grid, sizes)
    if held[-1] <= 0:
        return 1
    return sizes[int((held >= share * held[-1] * (1 - 1e-6)).nonzero()[0])]


def anisotropy(local: Tensor, pairs: Tensor, grid: Grid) -> float:
    """How much longer the local part is in one direction than across: (λ₁ - λ₂) / (λ₁ + λ₂) of its second moments.

    0: alike in all directions, or one point; 1: a line. Moments are of the mean strength, whose negative values count
    as zero. local, pairs: [2H - 1, 2W - 1], sums and how many they are of.
    """
    strength = (local / pairs.clamp(min=1)).clamp(min=0)
    dy, dx = displacement_axes(grid)
    yy, xx, yx = ((strength * product).sum() for product in (dy * dy, dx * dx, dy * dx))
    total = (yy + xx).item()
    return torch.hypot(yy - xx, 2 * yx).item() / total if total > 0 else 0.0
