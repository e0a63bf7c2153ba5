"""The whole block by the host build of the CUDA kernels: every intermediate, for tests of each launch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from host_build import device, module, plan_problem
from torch import Tensor

from deltaconv_kernels.block_arguments import BlockArguments
from deltaconv_kernels.reference import GATES


@dataclass(frozen=True)
class BlockRun:
    """What the four launches wrote. Grids that the in-projection does not write are empty."""

    hidden: Tensor  # [B, H, W, inter]
    halved: Tensor  # [B, H / 2, W / 2, inter], and
    quartered: Tensor  # [B, H / 4, W / 4, inter]: pooled
    local: Tensor  # [B, H, W, S * inter / 2]
    sums: Tensor  # [B, row tiles, dim], of x
    shifts: Tensor  # [slices, B, dim]
    result: Tensor  # [B, H, W, dim]


def pyramid_problem(block: BlockArguments, cta=None):
    """`cta`: rows, columns and threads of the pyramid's CTAs; None: the plan's choice."""
    sizes = (*block.x.shape[:3], block.inter)
    return plan_problem(sizes, block.factors, block.weight.shape[1], block.x.dtype, cta=cta)


def block_plan(block: BlockArguments, gpu=None, cta=None):
    return module().block_plan(pyramid_problem(block, cta), block.x.shape[-1], gpu or device("h100"))


def grids_of(plan, hidden: Tensor, block: BlockArguments) -> list[Tensor]:
    """The grids of factors 1, 2 and 4 as pixels, from what the in-projection wrote. Around planes there are zeros."""
    batch, height, width, _ = block.x.shape
    if not plan.grids:
        return [hidden.view(batch, height, width, block.inter), hidden[:0], hidden[:0]]
    grids = dict.fromkeys((1, 2, 4), hidden[:0])
    for grid in plan.grids:
        h, w, end = height // grid.factor, width // grid.factor, grid.lead + width // grid.factor
        size = batch, block.inter, h, grid.pitch
        planes = hidden[grid.offset :][: batch * block.inter * h * grid.pitch].view(size)
        assert not planes[..., : grid.lead].any()
        assert not planes[..., end:].any()
        grids[grid.factor] = planes[..., grid.lead : end].permute(0, 2, 3, 1)
        assert grids[grid.factor].shape == (batch, h, w, block.inter)
    return list(grids.values())


def run_block(block: BlockArguments, gpu=None) -> BlockRun:
    """The block as planned for one GPU; outputs and workspace start as NaN."""
    gpu = gpu or device("h100")
    plan, x = block_plan(block, gpu), block.x
    hidden = x.new_full((plan.hidden,), torch.nan)
    local = x.new_full((*x.shape[:3], block.out_weight.shape[1]), torch.nan)
    result = torch.full_like(x, torch.nan, memory_format=torch.contiguous_format)
    workspace = torch.full((plan.sums + plan.shifts,), torch.nan)

    def address(tensor: Tensor | None) -> int:
        assert tensor is None or tensor.is_contiguous()
        return 0 if tensor is None else tensor.data_ptr()

    pyramid = module().Problem(
        pyramid_problem(block),
        gpu,
        GATES.index(block.gate),
        block.gate_scale,
        module().Image(),
        address(block.weight),
        address(block.bias),
    )
    inputs = ("x", "residual", "in_weight", "in_bias", "out_weight", "out_bias", "pool_weight", "pool_bias")
    tensors = {name: getattr(block, name) for name in inputs}
    tensors |= {"hidden": hidden, "local": local, "result": result, "workspace": workspace}
    addresses = module().BlockTensors(**{name: address(tensor) for name, tensor in tensors.items()})
    module().block(pyramid, x.shape[-1], addresses)
    sums, shifts = workspace.split([plan.sums, plan.shifts])
    dim = x.shape[-1]
    return BlockRun(
        *grids_of(plan, hidden, block), local, sums.view(len(x), -1, dim), shifts.view(-1, len(x), dim), result
    )
