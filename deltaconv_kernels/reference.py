"""The pyramid operator in plain PyTorch: the specification that every backend is tested against.

Sums are accumulated in float32 (float64 for float64 input) whatever the storage type, and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from .resampling import pool, pool_adjoint, upsample, upsample_adjoint

GATES = ("scaled", "sigmoid")


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which products are summed for tensors stored as ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def stage_sizes(height: int, width: int, factors: Sequence[int]) -> list[tuple[int, int]]:
    """The grid (h, w) of each stage of an image of height x width."""
    return [(height // factor, width // factor) for factor in factors]


def pyramid_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    factors: Sequence[int],
    gate: str,
    gate_scale: float,
    residual: Tensor | None,
) -> Tensor:
    dtype = accumulation_dtype(x.dtype)
    planes = _to_planes(x, dtype)  # [B, C, H, W]
    size = height, width = planes.shape[-2:]
    stages = []
    for i, (grid, factor) in enumerate(zip(stage_sizes(height, width, factors), factors, strict=True)):
        u, v = _convolve(pool(planes, grid, factor), weight, bias, i).chunk(2, dim=1)
        stages.append(upsample(_gate(u, v, gate, gate_scale), size, factor))
    y = torch.cat(stages, dim=1).permute(0, 2, 3, 1)  # [B, H, W, S*C/2]
    if residual is not None:
        y = y + residual.to(dtype)
    return y.to(x.dtype).contiguous()


def pyramid_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    factors: Sequence[int],
    gate: str,
    gate_scale: float,
    output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(x.dtype)
    planes = _to_planes(x, dtype)  # [B, C, H, W]
    height, width = planes.shape[-2:]
    grad_stages = _to_planes(grad, dtype).chunk(len(factors), dim=1)  # S of [B, C/2, H, W]
    grad_x, grad_weight, grad_bias = torch.zeros_like(planes), [], []
    for i, (grid, factor) in enumerate(zip(stage_sizes(height, width, factors), factors, strict=True)):
        pooled = pool(planes, grid, factor)
        u, v = _convolve(pooled, weight, bias, i).chunk(2, dim=1)
        grad_gated = upsample_adjoint(grad_stages[i], grid)
        grad_a = torch.cat(_gate_backward(grad_gated, u, v, gate, gate_scale), dim=1)  # [B, C, h, w]
        grad_pooled, grad_filter = _convolve_backward(grad_a, pooled, weight, i)
        grad_x += pool_adjoint(grad_pooled, planes)
        grad_weight.append(grad_filter.permute(2, 3, 0, 1).squeeze(-1))  # [K, K, C]
        grad_bias.append(grad_a.sum(dim=(0, 2, 3)))
    empty = x.new_empty(0)
    wants_x, wants_weight, wants_bias = output_mask
    return (
        grad_x.permute(0, 2, 3, 1).to(x.dtype).contiguous() if wants_x else empty,
        torch.stack(grad_weight).to(x.dtype) if wants_weight else empty.clone(),
        torch.stack(grad_bias).to(x.dtype) if wants_bias and bias is not None else empty.clone(),
    )


def pyramid_jvp(
    tangents: Sequence[Tensor | None],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    factors: Sequence[int],
    gate: str,
    gate_scale: float,
) -> Tensor:
    """The forward-mode derivative: of the result, for tangents of x, weight, bias and residual (None: zero).

    Made of differentiable operators alone, so that it can be differentiated itself.
    """
    dtype = accumulation_dtype(x.dtype)
    x_tangent, weight_tangent, bias_tangent, residual_tangent = tangents
    planes = _to_planes(x, dtype)  # [B, C, H, W]
    plane_tangents = None if x_tangent is None else _to_planes(x_tangent, dtype)
    size = height, width = planes.shape[-2:]
    stages = []
    for i, (grid, factor) in enumerate(zip(stage_sizes(height, width, factors), factors, strict=True)):
        pooled = pool(planes, grid, factor)
        a = _convolve(pooled, weight, bias, i)
        a_tangent = torch.zeros_like(a)
        if plane_tangents is not None:
            a_tangent = a_tangent + _convolve(pool(plane_tangents, grid, factor), weight, None, i)
        if weight_tangent is not None:
            a_tangent = a_tangent + _convolve(pooled, weight_tangent, None, i)
        if bias_tangent is not None:
            a_tangent = a_tangent + bias_tangent[i].to(dtype)[:, None, None]
        stages.append(upsample(_gate_jvp(a, a_tangent, gate, gate_scale), size, factor))
    y = torch.cat(stages, dim=1).permute(0, 2, 3, 1)  # [B, H, W, S*C/2]
    if residual_tangent is not None:
        y = y + residual_tangent.to(dtype)
    return y.to(x.dtype).contiguous()


def _to_planes(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.permute(0, 3, 1, 2).to(dtype)


def _filter(weight: Tensor, stage: int, dtype: torch.dtype) -> Tensor:
    return weight[stage].to(dtype).permute(2, 0, 1).unsqueeze(1)  # [C, 1, K, K], conv2d's layout


def _convolve(planes: Tensor, weight: Tensor, bias: Tensor | None, stage: int) -> Tensor:
    stage_bias = None if bias is None else bias[stage].to(planes.dtype)
    return F.conv2d(
        _without_tf32(planes),
        _filter(weight, stage, planes.dtype),
        stage_bias,
        padding=weight.shape[1] // 2,
        groups=planes.shape[1],
    )


def _convolve_backward(grad: Tensor, planes: Tensor, weight: Tensor, stage: int) -> tuple[Tensor, Tensor]:
    pad = weight.shape[1] // 2
    filters = _filter(weight, stage, planes.dtype)
    grad_planes = _convolution_backward(grad, planes, filters, pad, [True, False, False])[0]
    padded = F.pad(planes, (pad, pad, pad, pad))
    sums = [
        _convolution_backward(
            grad[images, :, rows, columns],
            padded[images, :, rows.start : rows.stop + 2 * pad, columns.start : columns.stop + 2 * pad],
            filters,
            0,
            [False, True, False],
        )[1]
        for images, rows, columns in _tiles(grad)
    ]
    return grad_planes, torch.stack(sums).sum(0) if sums else torch.zeros_like(filters)


def _convolution_backward(grad: Tensor, planes: Tensor, filters: Tensor, pad: int, mask: list[bool]) -> list[Tensor]:
    return torch.ops.aten.convolution_backward(
        _without_tf32(grad),
        _without_tf32(planes),
        filters,
        None,
        stride=[1, 1],
        padding=[pad, pad],
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=planes.shape[1],
        output_mask=mask,
    )


def _tiles(planes: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Images, rows and columns of tiles that are small enough for PyTorch's float32 sum over all pixels of one."""
    batch, _, height, width = planes.shape
    side = 128
    images = max(1, side * side // (min(height, side) * min(width, side)))
    for first, top, left in product(range(0, batch, images), range(0, height, side), range(0, width, side)):
        yield (
            slice(first, min(first + images, batch)),
            slice(top, min(top + side, height)),
            slice(left, min(left + side, width)),
        )


def _without_tf32(planes: Tensor) -> Tensor:
    """The same planes as PyTorch convolves them in full float32 on a GPU, without touching a flag of the process.

    It gives depthwise float32 convolutions to cuDNN, which may use TF32, only where channels are innermost in memory.
    """
    return planes.contiguous() if planes.is_cuda else planes


def _gate(u: Tensor, v: Tensor, gate: str, gate_scale: float) -> Tensor:
    opened = gate_scale * v
    return u * (opened if gate == "scaled" else torch.sigmoid(opened))


def _gate_backward(grad: Tensor, u: Tensor, v: Tensor, gate: str, gate_scale: float) -> tuple[Tensor, Tensor]:
    if gate == "scaled":
        return grad * (gate_scale * v), grad * (gate_scale * u)
    opened = torch.sigmoid(gate_scale * v)
    return grad * opened, grad * u * (gate_scale * opened * (1 - opened))


def _gate_jvp(a: Tensor, a_tangent: Tensor, gate: str, gate_scale: float) -> Tensor:
    (u, v), (u_tangent, v_tangent) = a.chunk(2, dim=1), a_tangent.chunk(2, dim=1)
    along_u, along_v = _gate_backward(torch.ones_like(u), u, v, gate, gate_scale)
    return along_u * u_tangent + along_v * v_tangent
