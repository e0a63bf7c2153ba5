"""From running sums to a layer's profile, and the kernel size that it asks for.

The rule: K is the smallest odd size whose K x K window holds SHARE of the layer's local part, the attention above the
constant bias of its best fit, out to where the mean strength first falls to that bias; averaged over heads, timesteps
and images.

The default share is the paper's own choice in other words. ΔConvFusion (arXiv 2504.21292) sets K to about 60 % of the
measured field and finds a quadratic fall-off; of the mass of 1 - (d/r)², which has a field of 2r, a square window 1.2 r
wide holds 69.7 %. It is rounded down, so that an odd size which is exactly 60 % of a field is large enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deltaconv_kernels.validation import MAX_KERNEL_SIZE

from .fitting import Fit, fit_profile
from .geometry import Grid, crop_displacements
from .receptive_field import FieldSums
from .recording import LayerSums
from .records import LayerProfile, TimestepProfile
from .statistics import Radial, anisotropy, covering_window, local_part, radial_profile, sum_by_window
from .sums import AttentionSums

SHARE = 0.69
SMALLEST_KERNEL_SIZE = 3
FIELD_SHARES = (0.5, 0.8, 0.95)


@dataclass(frozen=True)
class Rule:
    """How kernel sizes follow from measurements.

    share: of the local part that the K x K window is to hold; max_kernel_size: the cap, odd;
    least_explained: a layer is called not local where its window and the mean explain less of its output's variance.
    """

    share: float = SHARE
    max_kernel_size: int = MAX_KERNEL_SIZE
    least_explained: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share: expected a number between 0 and 1, got {self.share}")
        if self.max_kernel_size % 2 == 0 or not SMALLEST_KERNEL_SIZE <= self.max_kernel_size <= MAX_KERNEL_SIZE:
            raise ValueError(
                f"max_kernel_size: expected an odd number from {SMALLEST_KERNEL_SIZE} to {MAX_KERNEL_SIZE}, "
                f"got {self.max_kernel_size}"
            )
        if not 0 <= self.least_explained <= 1:
            raise ValueError(f"least_explained: expected a number from 0 to 1, got {self.least_explained}")


def summarise_layer(sums: LayerSums, rule: Rule) -> LayerProfile:
    """The profile of one layer. `sums` has one timestep at least."""
    grid, by_timestep = sums.grid, sums.attention
    relative = torch.stack([part.relative.cpu() for part in by_timestep.values()]).sum(0)  # [heads, 2H - 1, 2W - 1]
    pairs = torch.stack([part.pairs for part in by_timestep.values()]).sum(0)
    mean = _LocalPart(relative.mean(0), pairs, grid)
    heads = [_LocalPart(head, pairs, grid) for head in relative]
    wanted = mean.kernel_size(rule.share)
    kernel_size = min(wanted, rule.max_kernel_size)
    explained = _explained_by(kernel_size, by_timestep)
    reach = min(MAX_KERNEL_SIZE // 2, max(grid) - 1)
    return LayerProfile(
        grid=grid,
        heads=sums.heads,
        channels=sums.channels,
        queries=sums.queries,
        distance=mean.radial.distance,
        pairs=mean.radial.pairs,
        window_sizes=next(iter(by_timestep.values())).kernel_sizes,
        timesteps=[
            _summarise_timestep(
                timestep, by_timestep[timestep], sums.receptive[timestep], sums.text_shares.get(timestep, [])
            )
            for timestep in sorted(by_timestep, reverse=True)
        ],
        relative_map=crop_displacements(relative / pairs.clamp(min=1), grid, reach),
        bias=torch.tensor([head.fit.bias for head in heads]),
        radial=mean.radial.strength,
        fit=mean.fit,
        kernel_size=kernel_size,
        head_kernel_sizes=[min(head.kernel_size(rule.share), rule.max_kernel_size) for head in heads],
        explained=explained,
        not_local=_why_not_local(kernel_size, wanted, explained, rule),
        text_share=_mean_share([share for shares in sums.text_shares.values() for share in shares]),
    )


class _LocalPart:
    """Of one map of sums by displacement: its radial profile, fit, and what is above the bias."""

    def __init__(self, relative: Tensor, pairs: Tensor, grid: Grid) -> None:
        self.grid = grid
        self.radial = radial_profile(relative, pairs, grid)
        self.fit = fit_profile(self.radial.distance, self.radial.strength, self.radial.pairs)
        self.local = local_part(relative, pairs, self.radial, self.fit, grid)

    def kernel_size(self, share: float) -> int:
        return max(covering_window(self.local, self.grid, share), SMALLEST_KERNEL_SIZE)


def _mean_share(shares: list[Tensor]) -> Tensor | None:
    return torch.stack(shares).mean(0) if shares else None


def _summarise_timestep(
    timestep: int, sums: AttentionSums, field: FieldSums, text_shares: list[Tensor]
) -> TimestepProfile:
    grid, relative, pairs = sums.grid, sums.relative.cpu(), sums.pairs
    heads = [_LocalPart(head, pairs, grid) for head in relative]
    shares = torch.tensor([_mass(head.radial, head.fit, sums.queries) for head in heads])
    strength = field.strength / field.pairs.clamp(min=1)
    field_radial = radial_profile(field.strength, field.pairs, grid).strength
    tokens = grid[0] * grid[1]
    return TimestepProfile(
        timestep=timestep,
        radial=torch.stack([head.radial.strength for head in heads]),
        window_share=sum_by_window(relative, grid, sums.kernel_sizes) / sums.queries,
        window_energy=sums.output.energy_explained().T.contiguous(),
        window_variance=sums.output.variance_explained().T.contiguous(),
        entropy=sums.entropy / sums.queries / math.log(tokens) if tokens > 1 else torch.zeros(len(heads)),
        anisotropy=torch.tensor([anisotropy(head.local, pairs, grid) for head in heads]),
        local_share=shares[:, 0],
        bias_share=shares[:, 1],
        fits=[head.fit for head in heads],
        field_radial=field_radial / strength.sum().clamp(min=torch.finfo(torch.float32).tiny),
        field_sizes={f"{share:g}": covering_window(strength, grid, share) for share in FIELD_SHARES},
        text_share=_mean_share(text_shares),
    )


def _mass(radial: Radial, fit: Fit, queries: int) -> tuple[float, float]:
    """A query's attention in the local part of the fit, and in the bias."""
    pairs = radial.pairs.double()
    return (pairs * fit.local(radial.distance.double())).sum().item() / queries, fit.bias * pairs.sum().item() / queries


def _explained_by(kernel_size: int, by_timestep: dict[int, AttentionSums]) -> float:
    """Share of the output's variance, over heads and timesteps, that a window of this size, or of the largest one
    measured if that is less, and the mean explain."""
    sizes = next(iter(by_timestep.values())).kernel_sizes
    index = sizes.index(min(kernel_size, sizes[-1]))
    outputs = [sums.output for sums in by_timestep.values()]
    unexplained = sum(output.unexplained()[index].sum().item() for output in outputs)
    return 1 - unexplained / sum(output.spread().sum().item() for output in outputs)


def _why_not_local(kernel_size: int, wanted: int, explained: float, rule: Rule) -> str | None:
    window = f"a {kernel_size} x {kernel_size} window and the mean"
    if explained < rule.least_explained:
        return f"{window} explain {100 * explained:.0f} % of its output's variance"
    if wanted > kernel_size:
        return f"its local part asks for a window of {wanted}, more than {rule.max_kernel_size}"
    return None
