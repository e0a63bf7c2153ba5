"""What bad input gets: one check of the operator's arguments, shared by every backend.

Sizes may be symbolic (torch.compile, torch.export): a comparison that holds for every size of a dynamic
dimension is recorded as an assertion instead of specialising the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .reference import GATES

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MAX_KERNEL_SIZE = 31


def check_arguments(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    factors: Sequence[int],
    gate: str,
    residual: Tensor | None,
) -> None:
    """Raise ValueError, naming the argument, what was expected and what came, unless the operator's contract holds."""
    _check_image(x)
    _check_filters(x, x.shape[-1], weight, bias, factors, gate)
    if residual is not None:
        _check_same_kind("residual", residual, x)
        _check_shape("residual", residual, output_shape(x, factors), "[B, H, W, S*C/2]")


class BlockArguments(NamedTuple):
    """The arguments of `deltaconv::block`, in its order; see `delta_block`."""

    x: Tensor
    in_weight: Tensor
    in_bias: Tensor | None
    weight: Tensor
    bias: Tensor | None
    out_weight: Tensor
    out_bias: Tensor | None
    pool_weight: Tensor
    pool_bias: Tensor | None
    factors: Sequence[int]
    gate: str = "scaled"
    gate_scale: float = 1.0
    residual: Tensor | None = None

    @property
    def inter(self) -> int:
        """The width inside the block."""
        return self.in_weight.shape[0]

    @property
    def tensors(self) -> list[Tensor]:
        """Those that are given, x first."""
        return [tensor for tensor in (*self[:9], self.residual) if isinstance(tensor, Tensor)]


def check_block(block: BlockArguments) -> None:
    """Raise ValueError, naming the argument, unless the contract of the whole block holds."""
    x = block.x
    _check_image(x)
    dim = x.shape[-1]
    _check(
        block.in_weight.dim() == 2,
        lambda: f"in_weight: expected 2 dimensions [inter, dim], got shape {_shape(block.in_weight)}",
    )
    _check_filters(x, block.inter, block.weight, block.bias, block.factors, block.gate)
    local = len(block.factors) * (block.inter // 2)
    for name, weight, bias, outputs, inputs in (
        ("in", block.in_weight, block.in_bias, block.inter, dim),
        ("out", block.out_weight, block.out_bias, dim, local),
        ("pool", block.pool_weight, block.pool_bias, dim, dim),
    ):
        _check_same_kind(f"{name}_weight", weight, x)
        _check_shape(f"{name}_weight", weight, (outputs, inputs), "[outputs, inputs]")
        if bias is not None:
            _check_same_kind(f"{name}_bias", bias, x)
            _check_shape(f"{name}_bias", bias, (outputs,), "[outputs]")
    if block.residual is not None:
        _check_same_kind("residual", block.residual, x)
        _check_shape("residual", block.residual, tuple(x.shape), "the shape of x")


def check_gradient(grad: Tensor, x: Tensor, factors: Sequence[int]) -> None:
    """Raise ValueError unless ``grad`` fits the result of the forward operator."""
    _check_same_kind("grad", grad, x)
    _check_shape("grad", grad, output_shape(x, factors), "[B, H, W, S*C/2]")


def output_shape(x: Tensor, factors: Sequence[int]) -> tuple[int, int, int, int]:
    """[B, H, W, S*C/2]: stage i occupies channels i*C/2 to (i+1)*C/2."""
    batch, height, width, channels = x.shape
    return batch, height, width, len(factors) * (channels // 2)


def _check_image(x: Tensor) -> None:
    _check(x.dim() == 4, lambda: f"x: expected 4 dimensions [B, H, W, C], got shape {_shape(x)}")
    _check(x.dtype in DTYPES, lambda: f"x: expected one of float32, bfloat16, float16, float64, got {x.dtype}")


def _check_filters(
    x: Tensor, channels: int, weight: Tensor, bias: Tensor | None, factors: Sequence[int], gate: str
) -> None:
    """Of a pyramid with this many channels on the grid of x."""
    _check(weight.dim() == 4, lambda: f"weight: expected 4 dimensions [S, K, K, C], got shape {_shape(weight)}")
    _check_same_kind("weight", weight, x)
    _, height, width, _ = x.shape
    stages, kernel_size, kernel_width, weight_channels = weight.shape
    _check(
        channels % 2 == 0 and channels > 0,
        lambda: f"x: expected an even number of channels C, 2 or more, got C = {channels}",
    )
    _check(
        kernel_size == kernel_width and kernel_size % 2 == 1 and 1 <= kernel_size <= MAX_KERNEL_SIZE,
        lambda: f"weight: expected square odd filters of 1 to {MAX_KERNEL_SIZE}, got {kernel_size} x {kernel_width}",
    )
    _check(
        weight_channels == channels,
        lambda: f"weight: expected C = {channels} channels as in x, got shape {_shape(weight)}",
    )
    _check(
        len(factors) == stages and stages > 0,
        lambda: f"factors: expected one per stage of weight, S = {stages}, got {list(factors)}",
    )
    for factor in factors:
        _check_factor(factor, height, width)
    _check(gate in GATES, lambda: f"gate: expected one of {GATES}, got {gate!r}")
    if bias is not None:
        _check_same_kind("bias", bias, x)
        _check_shape("bias", bias, (stages, channels), "[S, C]")


def _check_same_kind(name: str, tensor: Tensor, x: Tensor) -> None:
    _check(tensor.dtype == x.dtype, lambda: f"{name}: expected the dtype of x, {x.dtype}, got {tensor.dtype}")
    _check(
        tensor.device == x.device,
        lambda: f"{name}: expected the device of x, {x.device}, got {tensor.device}",
    )


def _check_factor(factor: int, height: int, width: int) -> None:
    _check(
        factor >= 1 and factor <= height and factor <= width,
        lambda: f"factors: expected 1 to min(H, W) for x of {height} x {width}, got {factor}",
    )


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...], letters: str) -> None:
    def message() -> str:
        return f"{name}: expected {letters} = {list(expected)}, got shape {_shape(tensor)}"

    _check(tensor.dim() == len(expected), message)
    for size, wanted in zip(tensor.shape, expected, strict=True):
        _check(size == wanted, message)


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _check(condition: bool | torch.SymBool, message: Callable[[], str]) -> None:
    if condition is not True:  # torch's check, which understands symbolic sizes, takes longer than a small convolution
        torch._check_value(condition, message)
