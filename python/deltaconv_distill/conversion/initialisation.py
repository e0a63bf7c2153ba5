"""Blocks that start as the best guess from the attention that they replace, instead of at random.

Attention with the same weights for every query is linear in its values. Where head h weights a key by its displacement
d alone, with a_h(d), the layer computes

    sum over h of (W_o,h W_v,h) (a_h * x) + b,    with a_h(d) = 1 / tokens + local_h(d)

(arXiv 2504.21292, section 3: a spatially invariant bias plus a local signal). The first part is a global average: it
goes into `pool_proj`. The second one is a depthwise convolution between two projections: the strongest singular
directions of W_o,h W_v,h go into `in_proj` and `out_proj`, the measured local_h into the filters. The gate is opened by
its bias, so that the block begins linear.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from deltaconv_kernels import DeltaConvBlock

from .displacements import filters_for
from .kinds.linear_maps import LinearMaps
from .kinds.site import Site

ATTENTION, RANDOM = "attention", "random"
INITS = (ATTENTION, RANDOM)

# Without a measurement: this share of every head's weight is local, a Gaussian with a standard deviation of K / 10.
# Chosen on the embedded teacher among shares of 0.15 to 0.5 and K / 10 to K / 3.
PRIOR_SHARE, PRIOR_WIDTH = 0.15, 0.1

# A head whose local part is weaker counts as this strong when its norm is shared out: its filters are near zero then,
# and could not learn if out_proj were near zero too.
FLOOR = 0.01


class LayerMeasurement(Protocol):
    """What the start of a block asks of an analysis: `deltaconv_distill.analysis.LayerProfile` is one."""

    @property
    def relative_map(self) -> Tensor:
        """[heads, 2R+1, 2R+1]: mean attention probability at the displacement key - query, which [R, R] has as 0."""

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W) in tokens that it was measured on."""


@runtime_checkable
class MeasuredMaps(Protocol):
    """`deltaconv_distill.analysis.Profile` is one."""

    @property
    def layers(self) -> Mapping[str, LayerMeasurement]:
        """By layer name."""


class Filters(NamedTuple):
    """kernels: [heads, S, K, K]; share: [heads], what their effect sums to, which the average must not add again."""

    kernels: Tensor
    share: Tensor


def check_init(init: str) -> None:
    """Raises ValueError unless `init` is one of INITS."""
    if init not in INITS:
        raise ValueError(f"init: expected one of {INITS}, got {init!r}")


def measured_maps(*candidates: object) -> MeasuredMaps | None:
    """The first of the arguments that has attention maps."""
    return next((candidate for candidate in candidates if isinstance(candidate, MeasuredMaps)), None)


def initialise_blocks(
    blocks: Mapping[str, DeltaConvBlock], sites: Mapping[str, Site], measured: MeasuredMaps | None
) -> None:
    """Initialise new blocks, in memory, from the attentions of the same names; not from those on the meta device.

    Raises:
        ValueError: `measured` lacks a layer or has other heads; an attention whose output is not linear in its values.
    """
    missing = [name for name in blocks if measured and name not in measured.layers]
    if missing:
        raise ValueError(f"profile: it was made for another model, or of a part of this one; missing {missing}")
    for name, block in blocks.items():
        if not sites[name].input_layer.weight.is_meta:
            layer = measured.layers[name] if measured else None
            initialise(block, sites[name].start(block, layer), name, layer)


@torch.no_grad()
def initialise(block: DeltaConvBlock, maps: LinearMaps, name: str, measured: LayerMeasurement | None) -> None:
    """Give a new block of the layer `name` weights that stand in for its attention; the gate's filters become zero.

    Raises:
        ValueError: as `initialise_blocks`.
    """
    heads = maps.heads
    filters = _measured_filters(block, heads, name, measured) if measured else _prior_filters(block, heads)
    left = maps.outputs.unflatten(1, (heads, -1)).movedim(1, 0)  # [heads, dim, head width]
    right = maps.values.unflatten(0, (heads, -1))  # [heads, head width, dim]
    block.pool_proj.weight.copy_(torch.einsum("h,hoi,hid->od", 1 - filters.share, left, right))
    block.pool_proj.bias.copy_(maps.bias)
    _open_gate(block)
    _factorise(block, left, right, filters.kernels)


def _measured_filters(block: DeltaConvBlock, heads: int, name: str, measured: LayerMeasurement) -> Filters:
    if len(measured.relative_map) != heads:
        raise ValueError(
            f"profile: expected relative maps of {heads} heads for {name}, got {len(measured.relative_map)}"
        )
    height, width = measured.grid
    local = measured.relative_map.to("cpu", torch.float32) - 1 / (height * width)
    reach = local.shape[-1] // 2
    pairs = _counts(height, reach)[:, None] * _counts(width, reach)
    kernels, effect = filters_for(local, pairs, block.kernel_size, block.factors)
    return Filters(kernels, effect.sum(dim=(1, 2)))


def _counts(length: int, reach: int) -> Tensor:
    """How many pairs of tokens in a row of `length` are -reach … reach apart."""
    return (length - torch.arange(-reach, reach + 1).abs()).clamp_min(0)


def _prior_filters(block: DeltaConvBlock, heads: int) -> Filters:
    size = block.kernel_size
    displacement = torch.arange(size) - size // 2
    line = torch.exp(-0.5 * (displacement / (PRIOR_WIDTH * size)) ** 2)
    line = line / line.sum()
    kernels = torch.zeros(heads, len(block.factors), size, size)
    kernels[:, block.factors.index(min(block.factors))] = PRIOR_SHARE * torch.outer(line, line)
    return Filters(kernels, torch.full((heads,), PRIOR_SHARE))


def _open_gate(block: DeltaConvBlock) -> None:
    """Make the second factor of u * gate(v) a constant: 1 where the gate is scaled, 1/2 (the steepest) of a sigmoid."""
    if block.bias is None:
        raise ValueError("init: 'attention' opens the gate by its bias, expected a block with bias=True")
    half = block.bias.shape[-1] // 2
    block.weight[..., half:] = 0
    block.bias[:, :half] = 0
    block.bias[:, half:] = 1 / block.gate_scale if block.gate == "scaled" else 0


def _factorise(block: DeltaConvBlock, left: Tensor, right: Tensor, kernels: Tensor) -> None:
    """Write the strongest of the sum over h of left_h right_h (kernels_h * x) into in_proj, weight and out_proj.

    The three factors get the norms that `reset_parameters` gives in_proj and the filters; out_proj has the rest.
    """
    outward, inward, strength = _singular_directions(left, right)  # [heads, dim, r], [heads, dim, r], [heads, r]
    norms = kernels.flatten(1).norm(dim=1).clamp_min(FLOOR)
    half, ranks = block.in_proj.out_features // 2, strength.shape[1]
    importance = (strength * norms[:, None]).flatten()
    chosen = importance.topk(min(half, len(importance))).indices
    head, rank, count = chosen // ranks, chosen % ranks, len(chosen)
    usual = 3**-0.5  # the norm of a row of in_proj, and of a filter over its K x K taps, at random
    opening = 1.0 if block.gate == "scaled" else 0.5
    columns = outward[head, :, rank] * (importance[chosen] / (usual * usual * opening))[:, None]  # [count, dim]

    block.in_proj.weight[:count] = usual * inward[head, :, rank]
    block.in_proj.bias[:half] = 0
    block.weight[..., :count] = usual * (kernels[head] / norms[head, None, None, None]).movedim(0, -1)
    block.out_proj.weight.zero_()
    block.out_proj.weight.unflatten(1, (len(block.factors), half))[:, :, :count] = columns.mT[:, None]
    block.out_proj.bias.zero_()


def _singular_directions(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each product left_h right_h, by way of the small matrix between two orthonormal bases."""
    left_basis, left_rest = torch.linalg.qr(left)
    right_basis, right_rest = torch.linalg.qr(right.mT)
    outward, strength, inward = torch.linalg.svd(left_rest @ right_rest.mT)
    return left_basis @ outward, right_basis @ inward.mT, strength
