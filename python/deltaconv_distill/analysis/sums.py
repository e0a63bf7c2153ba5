"""Running sums over the query–key pairs of one layer at one timestep: what its statistics are computed from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from .attention import Projected, probabilities
from .geometry import Grid, add_at_displacements, count_pairs
from .windows import windowed_outputs

ROUNDING = 1e-10  # of the square of a float32 number, relative, with room
TINY = torch.finfo(torch.float32).tiny


class AttentionSums:
    """Sums of float32 over queries and batch, each head apart. No map of all queries and keys is ever held.

    relative: [heads, 2H - 1, 2W - 1], attention by displacement; pairs: [2H - 1, 2W - 1], how many it is the sum of;
    entropy: [heads], in nats; queries: how many;
    output: of what the heads gather, exactly and with "window and mean" (`windows.py`) in its place.
    """

    def __init__(self, grid: Grid, heads: int, kernel_sizes: list[int]) -> None:
        height, width = grid
        self.grid = grid
        self.kernel_sizes = kernel_sizes
        self.relative = torch.zeros(heads, 2 * height - 1, 2 * width - 1)
        self.pairs = torch.zeros(2 * height - 1, 2 * width - 1)
        self.entropy = torch.zeros(heads)
        self.queries = 0
        self.output = OutputSums(*torch.zeros(2, heads), *torch.zeros(3, len(kernel_sizes), heads))

    def add_projected(self, projected: Projected, queries: Tensor, window_queries: int) -> None:
        """All sums, for M queries (indices of tokens); those about the output for the first `window_queries` alone."""
        for chunk, weights in probabilities(projected, queries):
            self.add_attention(weights, chunk)
        self.add_outputs(probabilities(projected, queries[:window_queries]), projected.value)

    def add_attention(self, weights: Tensor, queries: Tensor) -> None:
        """weights: [B, heads, M, N] of M queries (indices of tokens) over all keys, adding up to one."""
        self.relative = self.relative.to(weights.device)
        add_at_displacements(self.relative, weights.sum(0), queries, self.grid)
        self.pairs += len(weights) * count_pairs(queries, self.grid)
        self.entropy += torch.special.entr(weights).sum((0, 2, 3)).cpu()
        self.queries += len(weights) * len(queries)

    def add_outputs(self, attended: Iterable[tuple[Tensor, Tensor]], value: Tensor) -> None:
        """The sums about the output. attended: queries, [m], and weights, [B, heads, m, N]; value: [B, heads, N, D]."""
        exact, windowed = [], []
        for queries, weights in attended:
            exact.append(weights @ value)  # [B, heads, m, D]
            sizes = windowed_outputs(weights, value, queries, self.grid, self.kernel_sizes)
            windowed.append(torch.stack(sizes))  # [sizes, B, heads, m, D]
        self.output += OutputSums.of(torch.cat(exact, dim=-2), torch.cat(windowed, dim=-2))


class OutputSums(NamedTuple):
    """Of an output and of stand-ins for it: second moments over positions, channels and images.

    energy, variance: [heads], of the output, about zero and about each image's mean;
    error: [sizes, heads], squared difference; stand_in: [sizes, heads], variance; covariance: [sizes, heads].
    """

    energy: Tensor
    variance: Tensor
    error: Tensor
    stand_in: Tensor
    covariance: Tensor

    @staticmethod
    def of(exact: Tensor, stand_ins: Tensor) -> OutputSums:
        """exact: [B, heads, M, D]; stand_ins: [sizes, B, heads, M, D]."""
        about_mean, others = exact - exact.mean(-2, keepdim=True), stand_ins - stand_ins.mean(-2, keepdim=True)
        parts = (
            exact * exact,
            about_mean * about_mean,
            (exact - stand_ins).square(),
            others * others,
            about_mean * others,
        )
        return OutputSums(*(part.sum((-4, -2, -1)).cpu() for part in parts))

    def __add__(self, other: OutputSums) -> OutputSums:  # type: ignore[override]
        return OutputSums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def energy_explained(self) -> Tensor:
        """1 - error / energy: [sizes, heads]."""
        return 1 - self.error / self.energy.clamp(min=TINY)

    def unexplained(self) -> Tensor:
        """Variance left after the best multiple of each stand-in plus a constant, head by head: [sizes, heads]."""
        return (self.variance - self.covariance.square() / self.stand_in.clamp(min=TINY)).clamp(min=0)

    def variance_explained(self) -> Tensor:
        """Squared correlation of output and stand-in: [sizes, heads]; 1 for an output constant up to rounding."""
        return 1 - self.unexplained() / self.spread()

    def spread(self) -> Tensor:
        """The variance, [heads], but no less than what rounding makes of a constant output."""
        return torch.maximum(self.variance, ROUNDING * self.energy).clamp(min=TINY)
