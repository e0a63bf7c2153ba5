"""The pyramid operator in plain PyTorch: the specification that every backend is tested against.

Sums are accumulated in float32 (float64 for float64 input) whatever the storage type, and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

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
    for i, grid in enumerate(stage_sizes(height, width, factors)):
        u, v = _convolve(_pool(planes, grid), weight, bias, i).chunk(2, dim=1)
        stages.append(_upsample(_gate(u, v, gate, gate_scale), size))
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
    size = height, width = planes.shape[-2:]
    grad_stages = _to_planes(grad, dtype).chunk(len(factors), dim=1)  # S of [B, C/2, H, W]
    grad_x, grad_weight, grad_bias = torch.zeros_like(planes), [], []
    for i, grid in enumerate(stage_sizes(height, width, factors)):
        pooled = _pool(planes, grid)
        u, v = _convolve(pooled, weight, bias, i).chunk(2, dim=1)
        grad_gated = _upsample_adjoint(grad_stages[i], u.shape, size)
        grad_a = torch.cat(_gate_backward(grad_gated, u, v, gate, gate_scale), dim=1)  # [B, C, h, w]
        grad_pooled, grad_filter = _convolve_backward(grad_a, pooled, weight, i)
        grad_x += _pool_adjoint(grad_pooled, planes)
        grad_weight.append(grad_filter.permute(2, 3, 0, 1).squeeze(-1))  # [K, K, C]
        grad_bias.append(grad_a.sum(dim=(0, 2, 3)))
    empty = x.new_empty(0)
    wants_x, wants_weight, wants_bias = output_mask
    return (
        grad_x.permute(0, 2, 3, 1).to(x.dtype).contiguous() if wants_x else empty,
        torch.stack(grad_weight).to(x.dtype) if wants_weight else empty.clone(),
        torch.stack(grad_bias).to(x.dtype) if wants_bias and bias is not None else empty.clone(),
    )


def _to_planes(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.permute(0, 3, 1, 2).to(dtype)


def _filter(weight: Tensor, stage: int, dtype: torch.dtype) -> Tensor:
    return weight[stage].to(dtype).permute(2, 0, 1).unsqueeze(1)  # [C, 1, K, K], conv2d's layout


def _convolve(planes: Tensor, weight: Tensor, bias: Tensor | None, stage: int) -> Tensor:
    stage_bias = None if bias is None else bias[stage].to(planes.dtype)
    with torch.backends.cudnn.flags(allow_tf32=False):
        return F.conv2d(
            planes,
            _filter(weight, stage, planes.dtype),
            stage_bias,
            padding=weight.shape[1] // 2,
            groups=planes.shape[1],
        )


def _convolve_backward(grad: Tensor, planes: Tensor, weight: Tensor, stage: int) -> tuple[Tensor, Tensor]:
    pad = weight.shape[1] // 2
    with torch.backends.cudnn.flags(allow_tf32=False):
        grad_planes, grad_filter, _ = torch.ops.aten.convolution_backward(
            grad,
            planes,
            _filter(weight, stage, planes.dtype),
            None,
            stride=[1, 1],
            padding=[pad, pad],
            dilation=[1, 1],
            transposed=False,
            output_padding=[0, 0],
            groups=planes.shape[1],
            output_mask=[True, True, False],
        )
    return grad_planes, grad_filter


def _pool(planes: Tensor, grid: tuple[int, int]) -> Tensor:
    return planes if planes.shape[-2:] == grid else F.adaptive_avg_pool2d(planes, grid)


def _pool_adjoint(grad: Tensor, planes: Tensor) -> Tensor:
    if grad.shape == planes.shape:
        return grad
    return torch.ops.aten._adaptive_avg_pool2d_backward(grad, planes)


def _gate(u: Tensor, v: Tensor, gate: str, gate_scale: float) -> Tensor:
    opened = gate_scale * v
    return u * (opened if gate == "scaled" else torch.sigmoid(opened))


def _gate_backward(grad: Tensor, u: Tensor, v: Tensor, gate: str, gate_scale: float) -> tuple[Tensor, Tensor]:
    if gate == "scaled":
        return grad * (gate_scale * v), grad * (gate_scale * u)
    opened = torch.sigmoid(gate_scale * v)
    return grad * opened, grad * u * (gate_scale * opened * (1 - opened))


def _upsample(planes: Tensor, size: Sequence[int]) -> Tensor:
    if planes.shape[-2:] == size:
        return planes
    return F.interpolate(planes, size=tuple(size), mode="bilinear", align_corners=False)


def _upsample_adjoint(grad: Tensor, shape: Sequence[int], size: Sequence[int]) -> Tensor:
    if grad.shape == shape:
        return grad
    return torch.ops.aten.upsample_bilinear2d_backward(grad, list(size), list(shape), False)
