"""Launches the kernels: grids, workspaces, devices. Imported at the first call, since it needs Triton."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from ..reference import stage_sizes
from ..validation import output_shape
from .backward_kernels import (
    pyramid_backward_gate_kernel,
    pyramid_backward_input_kernel,
    pyramid_backward_pool_kernel,
    pyramid_backward_pooled_input_kernel,
)
from .collected import collect, collecting, current_device
from .configurations import MAX_REGISTERS, Configuration, Key, Tile, configuration, device_kind, register_bound
from .forward_kernel import pyramid_forward_kernel
from .weight_kernels import pyramid_backward_weight_kernel, pyramid_backward_weight_sum_kernel

MAX_PARTITIONS = 64
PIXELS_PER_PARTITION = 1024
REDUCE_BLOCK, REDUCE_WARPS = 256, 4
CACHED_PROBLEMS = 4096
POOL_RUN = 4  # pixels of a row that one lane of the pooling kernel takes
MAX_CHANNEL_BLOCKS = 65535  # what a GPU's grid takes along its second axis
MAX_POSITION = 2**31 - 1  # the kernels number patches, and the elements of a partial sum, in 32 bits


def pyramid_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    factors: Sequence[int],
    gate: str,
    gate_scale: float,
    residual: Tensor | None,
) -> Tensor:
    y = x.new_empty(output_shape(x, factors))
    if y.numel() == 0:
        return y
    x, weight, bias, residual = x.contiguous(), weight.contiguous(), _contiguous(bias), _contiguous(residual)
    B, H, W, C = x.shape
    tile = _configuration(x, weight).forward
    problem = _problem(weight, factors, H, W)
    with current_device(x.device):
        _launch(
            pyramid_forward_kernel, forward_grid(B, H, W, C, tuple(factors), tile),
            x, weight, bias, residual, y, B, H, W, gate_scale,
            **problem, SIGMOID=gate == "sigmoid",
            HAS_BIAS=bias is not None, HAS_RESIDUAL=residual is not None, **_patches(tile, problem),
        )  # fmt: skip
    return y


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
    wants_x, wants_weight, wants_bias = output_mask
    if x.numel() == 0:
        return (
            x.new_empty(x.shape if wants_x else 0),
            weight.new_zeros(weight.shape if wants_weight else 0),
            weight.new_zeros(bias.shape if wants_bias and bias is not None else 0),
        )
    grad, x, weight, bias = grad.contiguous(), x.contiguous(), weight.contiguous(), _contiguous(bias)
    tiles = _configuration(x, weight)
    if collecting() is None:
        compile_backward(x.shape, weight.shape, x.dtype, x.device, tuple(factors), gate, bias is not None, *output_mask)
    with current_device(x.device):
        pooled = _pool(x, weight, factors, tiles)
        grad_a = _gate_backward(grad, x, pooled, weight, bias, factors, gate, gate_scale, tiles)
        grad_x, grad_weight, grad_bias = (x.new_empty(0) for _ in range(3))  # an operator's results share no memory
        if wants_x:
            grad_x = _input_gradient(grad_a, x, weight, factors, tiles)
        if wants_weight or wants_bias:
            of_weight, of_bias = _weight_gradients(grad_a, x, pooled, weight, bias, factors, tiles)
            grad_weight = of_weight if wants_weight else grad_weight
            grad_bias = of_bias if wants_bias and of_bias is not None else grad_bias
    return grad_x, grad_weight, grad_bias


@lru_cache(CACHED_PROBLEMS)
def compile_backward(
    image: tuple[int, ...],
    filters: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    factors: tuple[int, ...],
    gate: str,
    has_bias: bool,
    *output_mask: bool,
) -> None:
    """All launches of a problem's gradients at once: launched one by one, each would first wait for its compiler."""
    x, weight = (torch.empty(shape, dtype=dtype, device="meta") for shape in (image, filters))
    bias = weight[:, 0, 0] if has_bias else None
    grad = x.new_empty(output_shape(x, factors))
    collect(device, [partial(pyramid_backward, grad, x, weight, bias, factors, gate, 1.0, output_mask)]).compile()


@lru_cache(CACHED_PROBLEMS)
def forward_grid(B: int, H: int, W: int, C: int, factors: tuple[int, ...], tile: Tile) -> tuple[int, int]:
    """Tiles of all stages by blocks of channel pairs; patches of a reduced stage share their borders."""
    tiles = 0
    for factor, (h, w) in zip(factors, stage_sizes(H, W, factors), strict=True):
        if factor == 1:
            patches = cdiv(h, tile.RH) * cdiv(w, tile.RW)
        else:
            patches = cdiv(h + 1, tile.RH - 1) * cdiv(w + 1, tile.RW - 1)
        tiles += tiles_of(B * patches, tile.BP)
    return tiles, channel_blocks(C, tile.BC, paired=True)


def tiles_of(patches: int, BP: int) -> int:
    """Tiles of BP patches."""
    check_patches(patches, BP)
    return cdiv(patches, BP)


def check_patches(patches: int, at_a_time: int) -> None:
    """Raise ValueError where the kernels, which round up to `at_a_time`, could not number that many patches."""
    most = MAX_POSITION - at_a_time
    if patches > most:
        raise ValueError(f"x: expected at most {most} patches of pixels on the triton backend, got {patches}")


def channel_blocks(C: int, BC: int, paired: bool = False) -> int:
    """Blocks of BC channels, each with channel c + C/2 if `paired`; ValueError where no grid holds that many."""
    halves = 2 if paired else 1
    most = MAX_CHANNEL_BLOCKS * BC * halves
    if most < C:
        raise ValueError(f"x: expected at most {most} channels for this pass of the triton backend, got C = {C}")
    return cdiv(C // halves, BC)


def partitions(B: int, H: int, W: int) -> int:
    """How many partial sums the weight gradient is split into: by the shape alone, so that its bits repeat."""
    return min(MAX_PARTITIONS, cdiv(B * H * W, PIXELS_PER_PARTITION))


def _pool(x: Tensor, weight: Tensor, factors: Sequence[int], tiles: Configuration) -> Tensor:
    """The inputs of every stage with a factor above 1, one after the other: [pixels, C] float32."""
    B, H, W, C = x.shape
    tile = tiles.backward
    pooled = x.new_empty(_pixels(x, [f for f in factors if f > 1]), C, dtype=torch.float32)
    if pooled.numel():
        grid = _grid(x, [f for f in factors if f > 1], tile.BP, tile.BC, 1, POOL_RUN)
        problem = _problem(weight, factors, H, W)
        del problem["K"]
        _launch(
            pyramid_backward_pool_kernel, grid,
            x, pooled, B, H, W, **problem, BP=tile.BP, BC=tile.BC, RW=POOL_RUN, **_compiler_options(tile.warps),
        )  # fmt: skip
    return pooled


def _gate_backward(
    grad: Tensor,
    x: Tensor,
    pooled: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    factors: Sequence[int],
    gate: str,
    gate_scale: float,
    tiles: Configuration,
) -> Tensor:
    """The gradient of every stage's convolution, one after the other: [pixels, C] float32."""
    B, H, W, C = x.shape
    tile = tiles.backward
    grad_a = x.new_empty(_pixels(x, factors), C, dtype=torch.float32)
    problem = _problem(weight, factors, H, W)
    _launch(
        pyramid_backward_gate_kernel, _grid(x, factors, tile.BP, tile.BC, tile.RH, tile.RW, paired=True),
        x, pooled, weight, bias, grad, grad_a, B, H, W, gate_scale,
        **problem, SIGMOID=gate == "sigmoid", HAS_BIAS=bias is not None, **_patches(tile, problem),
    )  # fmt: skip
    return grad_a


def _input_gradient(grad_a: Tensor, x: Tensor, weight: Tensor, factors: Sequence[int], tiles: Configuration) -> Tensor:
    B, H, W, C = x.shape
    tile = tiles.backward
    problem = _problem(weight, factors, H, W)
    problem |= _patches(tile, problem)
    reduced = [f for f in factors if f > 1]
    grad_pooled = x.new_empty(_pixels(x, reduced), C, dtype=torch.float32)
    if reduced:
        _launch(
            pyramid_backward_pooled_input_kernel, _grid(x, reduced, tile.BP, tile.BC, tile.RH, tile.RW),
            grad_a, weight, grad_pooled, B, H, W, **problem,
        )  # fmt: skip
    grad_x = torch.empty_like(x)
    _launch(
        pyramid_backward_input_kernel, _grid(x, (1,), tile.BP, tile.BC, tile.RH, tile.RW),
        grad_a, grad_pooled, weight, grad_x, B, H, W, **problem,
    )  # fmt: skip
    return grad_x


def _weight_gradients(
    grad_a: Tensor,
    x: Tensor,
    pooled: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    factors: Sequence[int],
    tiles: Configuration,
) -> tuple[Tensor, Tensor | None]:
    B, H, W, C = x.shape
    S, K = weight.shape[:2]
    tile = tiles.weight
    P = partitions(B, H, W)
    size = S * K * (K + 1) * C
    if size > MAX_POSITION - REDUCE_BLOCK:
        raise ValueError(
            f"weight: expected S*K*(K + 1)*C of at most {MAX_POSITION - REDUCE_BLOCK} for a gradient on the triton "
            f"backend, got {size}"
        )
    check_patches(B * H * cdiv(W, tile.RW), P * tile.BP)
    partial = x.new_empty(P, S, K, K + 1, C, dtype=torch.float32)
    _launch(
        pyramid_backward_weight_kernel, (S * P * cdiv(K, tile.RH), channel_blocks(C, tile.BC)),
        x, pooled, grad_a, partial, P, B, H, W,
        C=C, K=K, FACTORS=tuple(factors), BP=tile.BP, BC=tile.BC, RK=tile.RH, RW=tile.RW,
        **_compiler_options(tile.warps),
    )  # fmt: skip
    grad_weight = torch.empty_like(weight)
    grad_bias = None if bias is None else torch.empty_like(bias)
    _launch(
        pyramid_backward_weight_sum_kernel, (cdiv(size, REDUCE_BLOCK),),
        partial, grad_weight, grad_bias, P, size, C=C, K=K, BLOCK=REDUCE_BLOCK, **_compiler_options(REDUCE_WARPS),
    )  # fmt: skip
    return grad_weight, grad_bias


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    """The kernels know one layout: strides are compile-time constants, so that addresses fold into the loads."""
    return None if tensor is None else tensor.contiguous()


def cdiv(dividend: int, divisor: int) -> int:
    """Rounded up. Triton's own is made for constants inside kernels and takes the host microseconds."""
    return -(-dividend // divisor)


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **keywords: Any) -> None:
    collected = collecting()
    if collected is None:
        kernel[grid](*arguments, **keywords)
    else:
        collected.add(kernel, grid, arguments, keywords)


def _configuration(x: Tensor, weight: Tensor) -> Configuration:
    _, H, W, C = x.shape
    collected = collecting()
    return tiles_for(C, H, W, weight.shape[1], x.dtype, collected.device if collected else x.device)


@lru_cache(CACHED_PROBLEMS)
def tiles_for(C: int, H: int, W: int, K: int, dtype: torch.dtype, device: torch.device) -> Configuration:
    return configuration(Key(C, H, W, K, dtype, device_kind(device)))


def _problem(weight: Tensor, factors: Sequence[int], H: int, W: int) -> dict:
    even = tuple(H % factor == 0 and W % factor == 0 for factor in factors)
    return {"C": weight.shape[3], "K": weight.shape[1], "FACTORS": tuple(factors), "EVEN": even}


def _patches(tile: Tile, problem: dict) -> dict:
    options = _compiler_options(tile.warps, register_bound(tile, problem["K"], all(problem["EVEN"])))
    return {"BP": tile.BP, "BC": tile.BC, "RH": tile.RH, "RW": tile.RW} | options


def _compiler_options(warps: int, registers: int = MAX_REGISTERS) -> dict:
    options = {"num_warps": warps, "enable_fp_fusion": True}  # the default is about to change: bits should not
    if torch.version.hip is None:  # ptxas trades registers for occupancy, and spills, unless it is given a bound
        options["maxnreg"] = registers
    return options


def _pixels(x: Tensor, factors: Sequence[int]) -> int:
    B, H, W, _ = x.shape
    return B * sum(h * w for h, w in stage_sizes(H, W, factors))


def _grid(
    x: Tensor, factors: Sequence[int], BP: int, BC: int, RH: int, RW: int, paired: bool = False
) -> tuple[int, int]:
    B, H, W, C = x.shape
    tiles = sum(tiles_of(B * cdiv(h, RH) * cdiv(w, RW), BP) for h, w in stage_sizes(H, W, factors))
    return tiles, channel_blocks(C, BC, paired)
