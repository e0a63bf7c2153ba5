"""The problems that backends are tested on: a grid of sizes, and random ones of any shape, type and memory layout."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from deltaconv_kernels import reference
from deltaconv_kernels.testing import Case, Shape, make_case

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

SIZES = [
    Shape(1, 1, 1, 2, 1, (1,)),
    Shape(2, 1, 7, 6, 3, (1,)),
    Shape(1, 2, 2, 4, 17, (1, 2)),  # H and W far below K
    Shape(2, 8, 8, 32, 3),
    Shape(1, 5, 13, 34, 5, (1, 2, 3)),  # prime sizes, C/2 not a multiple of any vector
    Shape(2, 13, 5, 18, 7, (2, 4)),
    Shape(1, 17, 16, 16, 9, (3,)),
    Shape(2, 16, 19, 64, 11),
    Shape(1, 23, 21, 40, 13, (1,)),
    Shape(1, 20, 20, 16, 15, (1, 2, 3)),
    Shape(1, 20, 31, 16, 17),
    Shape(1, 33, 29, 8, 31, (1, 4)),
    Shape(3, 6, 64, 14, 5),
    Shape(1, 64, 6, 130, 3),
]
# Pool windows where a floating-point index goes wrong: 67 → 33, 384 → 192, 180 → 60.
POOL_SIZES = [
    Shape(1, 67, 5, 4, 3, (2,)),
    Shape(1, 4, 384, 4, 3, (2,)),
    Shape(1, 180, 3, 4, 3, (3,)),
    Shape(1, 67, 180, 4, 3, (1, 2, 3)),
]


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def scattered(tensor: Tensor) -> Tensor:
    """The same values, every second element of memory."""
    return torch.stack([tensor, tensor + 1], dim=-1)[..., 0]


def sliced(tensor: Tensor) -> Tensor:
    """The same values, dense in the last axis alone."""
    return torch.cat([tensor, tensor + 1], dim=-1)[..., : tensor.shape[-1]]


def reordered(tensor: Tensor) -> Tensor:
    """The same values, the axes in reverse order in memory."""
    axes = tuple(reversed(range(tensor.dim())))
    return tensor.permute(axes).contiguous().permute(axes)


def repeated_images(tensor: Tensor) -> Tensor:
    """The first image for every one, without a copy: a stride of 0."""
    return tensor[:1].expand_as(tensor) if len(tensor) else tensor


def one_number(tensor: Tensor) -> Tensor:
    """One element expanded, as `y.sum().backward()` sends it."""
    return tensor.flatten()[:1].reshape([1] * tensor.dim()).expand_as(tensor) if tensor.numel() else tensor


LAYOUTS = (torch.Tensor.contiguous, scattered, sliced, reordered)
IMAGE_LAYOUTS = (*LAYOUTS, repeated_images)
GRADIENT_LAYOUTS = (*IMAGE_LAYOUTS, one_number)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    batch, height, width = draw(st.integers(0, 3)), draw(st.integers(1, 40)), draw(st.integers(1, 40))
    channels = 2 * draw(st.integers(1, 40))
    kernel_size = 2 * draw(st.integers(0, 15)) + 1
    factors = draw(st.lists(st.integers(1, 5).map(lambda factor: min(factor, height, width)), min_size=1, max_size=3))
    return Shape(batch, height, width, channels, kernel_size, tuple(factors))


@st.composite
def problems(draw: st.DrawFn) -> Case:
    """Any problem within the contract: shape, type, gate, optional arguments, and every tensor's memory layout."""
    case = make_case(
        draw(shapes()),
        draw(st.sampled_from(DTYPES)),
        gate=draw(st.sampled_from(reference.GATES)),
        bias=draw(st.booleans()),
        residual=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )
    layouts = {
        "x": IMAGE_LAYOUTS,
        "weight": LAYOUTS,
        "bias": LAYOUTS,
        "residual": IMAGE_LAYOUTS,
        "grad": GRADIENT_LAYOUTS,
    }
    tensors = {
        name: draw(st.sampled_from(choices))(value)
        for name, choices in layouts.items()
        if (value := getattr(case, name)) is not None
    }
    return replace(case, gate_scale=draw(st.floats(0.1, 20)), **tensors)
