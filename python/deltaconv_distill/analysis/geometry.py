"""Displacements between the tokens of a grid.

A displacement is key minus query, (dy, dx), and stands at [H - 1 + dy, W - 1 + dx] of a map of [2H - 1, 2W - 1]: all
that a grid of H x W tokens has.
"""

from __future__ import annotations

import torch
from torch import Tensor

Grid = tuple[int, int]


def add_at_displacements(total: Tensor, rows: Tensor, queries: Tensor, grid: Grid) -> None:
    """Add what each query has for each key to `total`, at their displacement.

    Args:
        total: [..., 2H - 1, 2W - 1], changed in place.
        rows: [..., M, N], N = H * W keys in row-major order.
        queries: M indices of tokens.
        grid: H, W.
    """
    height, width = grid
    rows = rows.unflatten(-1, grid)
    for index, query in enumerate(queries.tolist()):
        y, x = divmod(query, width)
        part = total[..., height - 1 - y : 2 * height - 1 - y, width - 1 - x : 2 * width - 1 - x]
        part += rows[..., index, :, :]


def count_pairs(queries: Tensor, grid: Grid) -> Tensor:
    """Of the given queries (indices of tokens), how many have a key at each displacement: float32 [2H - 1, 2W - 1]."""
    height, width = grid
    here = torch.bincount(queries.cpu(), minlength=height * width).view(grid)
    # integral image: a displacement's queries fill a rectangle of the grid
    integral = torch.zeros(height + 1, width + 1, dtype=torch.long)
    integral[1:, 1:] = here.cumsum(0).cumsum(1)
    (top, bottom), (left, right) = (_bounds(size) for size in grid)
    top, bottom = top[:, None], bottom[:, None]
    counts = integral[bottom, right] - integral[top, right] - integral[bottom, left] + integral[top, left]
    return counts.float()


def distances(grid: Grid) -> Tensor:
    """Euclidean length of each displacement: float32 [2H - 1, 2W - 1]."""
    dy, dx = displacement_axes(grid)
    return torch.hypot(dy, dx)


def window_reach(grid: Grid) -> Tensor:
    """The size K of the smallest K x K window that each displacement is in: int64 [2H - 1, 2W - 1], odd."""
    dy, dx = displacement_axes(grid)
    return (2 * torch.maximum(dy.abs(), dx.abs()) + 1).long().expand(2 * grid[0] - 1, 2 * grid[1] - 1)


def chebyshev(queries: Tensor, grid: Grid) -> Tensor:
    """max(|dy|, |dx|) between each query and each key: int64 [M, N]."""
    keys = torch.arange(grid[0] * grid[1], device=queries.device)
    dy = keys // grid[1] - queries[:, None] // grid[1]
    dx = keys % grid[1] - queries[:, None] % grid[1]
    return torch.maximum(dy.abs(), dx.abs())


def window_sizes(grid: Grid, largest: int) -> list[int]:
    """1, 3, 5, … up to `largest` or to the window that holds the grid from each of its tokens."""
    return list(range(1, min(largest, 2 * max(grid) - 1) + 1, 2))


def crop_displacements(maps: Tensor, grid: Grid, reach: int) -> Tensor:
    """The displacements of -reach to reach along both axes: [..., 2 reach + 1, 2 reach + 1], zero beyond the grid."""
    rows, columns = (reach - (size - 1) for size in grid)  # negative: cut away
    return torch.nn.functional.pad(maps, (columns, columns, rows, rows))


def displacement_axes(grid: Grid) -> tuple[Tensor, Tensor]:
    """dy [2H - 1, 1] and dx [2W - 1], float32."""
    dy, dx = (torch.arange(1 - size, size, dtype=torch.float32) for size in grid)
    return dy[:, None], dx


def _bounds(size: int) -> tuple[Tensor, Tensor]:
    """First query along an axis, and the one behind the last, with a key at each displacement 1 - size … size - 1."""
    displacement = torch.arange(1 - size, size)
    return (-displacement).clamp(min=0), size - displacement.clamp(min=0)
