"""What bad input gets: one check of the operator's arguments, shared by every backend.

Sizes may be symbolic (torch.compile, torch.export): a comparison that holds for every size of a dynamic
dimension is recorded as an assertion instead of specialising the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from .block_arguments import BlockArguments
from .reference import GATES

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MAX_KERNEL_SIZE = 31
AUTOCAST_DEVICES = ("cpu", "cuda")


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


def check_block(block: BlockArguments) -> None:
    """Raise ValueError, naming the argument, unless the contract of the whole block holds."""
    x = block.x
    _check_image(x)
    dim = x.shape[-1]
    _check_dense("in_weight", block.in_weight)
    if block.in_weight.dim() != 2:
        raise ValueError(f"in_weight: expected 2 dimensions [inter, dim], got shape {_shape(block.in_weight)}")
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


def check_stream(x: Tensor, residual: Tensor | None, dim: int) -> None:
    """What a block is called with: x [B, H, W, dim] and a residual of its shape and, but for autocast, its dtype."""
    _check_dense("x", x)
    if x.dim() != 4 or x.shape[-1] != dim:
        raise ValueError(f"x: expected [B, H, W, dim = {dim}], got shape {_shape(x)}")
    if residual is not None:
        _check_same_kind("residual", residual, x)
        if not torch.compiler.is_compiling():
            return _check_shape("residual", residual, tuple(x.shape), "the shape of x")
        for size, wanted in zip(residual.shape, x.shape, strict=True):
            # Dynamo takes a message that is made here, of constants alone, and in torch 2.11 for this check alone
            torch._check(size == wanted, lambda: "residual: expected the shape of x")


def check_against_parameters(x: Tensor, parameter: Tensor) -> None:
    """Raise ValueError if x is not of the dtype and device of a block's parameters."""
    if _computed_dtype(x) != _computed_dtype(parameter):
        raise ValueError(f"x: expected the dtype of the block's parameters, {parameter.dtype}, got {x.dtype}")
    if x.device != parameter.device:
        raise ValueError(f"x: expected the device of the block's parameters, {parameter.device}, got {x.device}")


def check_block_options(dim: int, kernel_size: int, factors: Sequence[int], expansion: float, gate: str) -> None:
    """Raise ValueError, naming the argument, unless a DeltaConvBlock can be made of these."""
    if not _is_integer(dim) or dim < 1:
        raise ValueError(f"dim: expected an integer >= 1, got {dim!r}")
    if not _is_integer(kernel_size) or kernel_size % 2 == 0 or not 1 <= kernel_size <= MAX_KERNEL_SIZE:
        raise ValueError(f"kernel_size: expected an odd integer from 1 to {MAX_KERNEL_SIZE}, got {kernel_size!r}")
    is_sequence = isinstance(factors, Sequence) and not isinstance(factors, str)
    if not is_sequence or not factors or not all(_is_integer(factor) and factor >= 1 for factor in factors):
        raise ValueError(f"factors: expected one or more integers >= 1, got {factors!r}")
    if not isinstance(expansion, Real) or not 0 < expansion < math.inf:
        raise ValueError(f"expansion: expected a number above 0, got {expansion!r}")
    if gate not in GATES:
        raise ValueError(f"gate: expected one of {GATES}, got {gate!r}")


def check_types(arguments: Mapping[str, Any]) -> None:
    """Raise ValueError for the first argument whose Python type the operator's schema refuses, or its dispatcher."""
    for name, value in arguments.items():
        if name == "factors":
            if not isinstance(value, Sequence) or isinstance(value, str) or not all(map(_is_integer, value)):
                raise ValueError(f"factors: expected a sequence of integers, one per stage, got {value!r}")
        elif name == "gate":
            if value not in GATES:
                raise ValueError(f"gate: expected one of {GATES}, got {value!r}")
        elif name == "gate_scale":
            if not isinstance(value, Real):
                raise ValueError(f"gate_scale: expected a number, got {value!r}")
        elif not (value is None and name in _OPTIONAL):
            _check_dense(name, value)


_OPTIONAL = ("bias", "in_bias", "out_bias", "pool_bias", "residual")


def _is_integer(value: object) -> bool:
    return isinstance(value, (Integral, torch.SymInt)) and not isinstance(value, bool)


def _type_name(value: object) -> str:
    return "None" if value is None else f"{type(value).__module__}.{type(value).__qualname__}"


def _check_image(x: Tensor) -> None:
    _check_dense("x", x)
    if x.dim() != 4:
        raise ValueError(f"x: expected 4 dimensions [B, H, W, C], got shape {_shape(x)}")
    if x.dtype not in DTYPES:
        raise ValueError(f"x: expected one of float32, bfloat16, float16, float64, got {x.dtype}")


def _check_filters(
    x: Tensor, channels: int, weight: Tensor, bias: Tensor | None, factors: Sequence[int], gate: str
) -> None:
    """Of a pyramid with this many channels on the grid of x."""
    _check_same_kind("weight", weight, x)
    if weight.dim() != 4:
        raise ValueError(f"weight: expected 4 dimensions [S, K, K, C], got shape {_shape(weight)}")
    _, height, width, _ = x.shape
    stages, kernel_size, kernel_width, weight_channels = weight.shape
    _check(channels > 0, lambda: "x: expected an even number of channels C, 2 or more, got C = 0")
    _check(
        channels % 2 == 0,
        lambda: f"x: expected an even number of channels C, 2 or more, got C = {channels}",
    )
    _check(
        kernel_size == kernel_width and kernel_size % 2 == 1 and 1 <= kernel_size <= MAX_KERNEL_SIZE,
        lambda: (
            f"weight: expected square odd filters of 1 to {MAX_KERNEL_SIZE}, got {kernel_size} x {kernel_width}"
            + _hint_of_conv2d(weight, channels)
        ),
    )
    _check(
        weight_channels == channels,
        lambda: (
            f"weight: expected [S, K, K, C] with C = {channels} channels as in x, got shape {_shape(weight)}"
            + _hint_of_conv2d(weight, channels)
        ),
    )
    _check(
        len(factors) == stages and stages > 0,
        lambda: f"factors: expected one per stage of weight, S = {stages}, got {list(factors)}",
    )
    for factor in factors:
        _check_factor(factor, height, width)
    if gate not in GATES:
        raise ValueError(f"gate: expected one of {GATES}, got {gate!r}")
    if bias is not None:
        _check_same_kind("bias", bias, x)
        _check_shape("bias", bias, (stages, channels), "[S, C]")


def _hint_of_conv2d(weight: Tensor, channels: int) -> str:
    outputs, inputs, _, _ = weight.shape
    if inputs != 1 or outputs % channels:
        return ""
    return (
        "; this is conv2d's layout, [C, 1, K, K] for each stage: "
        "weight.unflatten(0, (S, C)).squeeze(2).permute(0, 2, 3, 1) is the pyramid's"
    )


def _check_dense(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name}: expected a torch.Tensor, got {_type_name(tensor)}")
    if tensor.layout is not torch.strided:
        raise ValueError(f"{name}: expected a dense tensor, got layout {tensor.layout}")
    if tensor.is_nested:
        raise ValueError(f"{name}: expected a dense tensor, got a nested one")


def _check_same_kind(name: str, tensor: Tensor, x: Tensor) -> None:
    _check_dense(name, tensor)
    if tensor.dtype != x.dtype and _computed_dtype(tensor) != _computed_dtype(x):
        raise ValueError(f"{name}: expected the dtype of x, {x.dtype}, got {tensor.dtype}")
    if tensor.device != x.device:
        raise ValueError(f"{name}: expected the device of x, {x.device}, got {tensor.device}")


def _computed_dtype(tensor: Tensor) -> torch.dtype:
    """The tensor's own, or what autocast makes of it, where that is on and is still to come."""
    device_type = tensor.device.type
    is_cast = tensor.is_floating_point() and tensor.dtype != torch.float64
    if not is_cast or device_type not in AUTOCAST_DEVICES or not torch.is_autocast_enabled(device_type):
        return tensor.dtype
    return torch.get_autocast_dtype(device_type)


def _check_factor(factor: int, height: int, width: int) -> None:
    def message() -> str:
        return f"factors: expected 1 to min(H, W) for x of {height} x {width}, got {factor}"

    for fits in (factor >= 1, factor <= height, factor <= width):  # each size may be known only when the graph runs
        if fits is not True:
            torch._check_value(fits, message)


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...], letters: str) -> None:
    def message() -> str:
        return f"{name}: expected {letters} = {list(expected)}, got shape {_shape(tensor)}"

    _check(tensor.dim() == len(expected), message)
    for size, wanted in zip(tensor.shape, expected, strict=True):
        fits = size == wanted
        if fits is not True:
            torch._check_value(fits, message)


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _check(condition: bool | torch.SymBool, message: Callable[[], str]) -> None:
    if condition is not True:  # torch's check, which understands symbolic sizes, takes longer than a small convolution
        torch._check_value(condition, message)
