"""What tests, benchmarks and tools share: the shapes that count, random problems, errors and budgets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import reference
from .flops import pyramid_flops
from .ops import pyramid

deterministic: Any = torch.utils.deterministic  # its attributes are properties that type checkers miss

# Largest ‖out - ref‖ / ‖ref‖ against the float64 reference, forward and every gradient.
ERROR_BUDGET = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@dataclass(frozen=True)
class Shape:
    """A problem's sizes: x is [B, H, W, inter], each of the stages in ``factors`` has K x K filters."""

    batch: int
    height: int
    width: int
    inter: int
    kernel_size: int
    factors: tuple[int, ...] = (1, 2)

    def __str__(self) -> str:
        factors = ".".join(map(str, self.factors))
        return f"{self.batch}x{self.height}x{self.width}x{self.inter}-k{self.kernel_size}-f{factors}"

    @property
    def flops(self) -> int:
        """Of the convolutions alone, forward: 2 K² C B Σ hᵢ wᵢ."""
        return pyramid_flops((self.batch, self.height, self.width, self.inter), self.kernel_size, self.factors)

    def bytes(self, dtype: torch.dtype, training: bool = False) -> int:
        """What must be moved: x, weights and result; in training also what backward reads and writes."""
        pixels = self.batch * self.height * self.width
        stages = len(self.factors)
        x, y = pixels * self.inter, pixels * stages * self.inter // 2
        weight = stages * self.kernel_size**2 * self.inter
        backward = x + weight + y + x + weight  # read, the gradient of the result read, and two gradients written
        return (x + weight + y + (backward if training else 0)) * dtype.itemsize


# From the published models, at the sizes in the comments; the block's inter is half the model's width.
NAMED_SHAPES = {
    "sd15-64-k7": Shape(2, 64, 64, 160, 7),  # SD1.5 at 512 px, outermost level, down
    "sd15-64-k11": Shape(2, 64, 64, 160, 11),  # the same, up
    "sd15-32-k9": Shape(2, 32, 32, 320, 9),
    "sd15-16-k5": Shape(2, 16, 16, 640, 5),
    "sd15-8-k3": Shape(2, 8, 8, 640, 3),  # mid block
    "sdxl-64-k9": Shape(2, 64, 64, 320, 9),  # SDXL at 1024 px
    "sdxl-64-k13": Shape(2, 64, 64, 320, 13),
    "sdxl-32-k7": Shape(2, 32, 32, 640, 7),
    "sdxl-32-k9": Shape(2, 32, 32, 640, 9),
    "pixart-32-k13": Shape(2, 32, 32, 576, 13),  # PixArt-Σ at 512 px
    "pixart-64-k13": Shape(2, 64, 64, 576, 13),  # PixArt-Σ at 1024 px
    "hires-256-k11": Shape(1, 256, 256, 160, 11),  # SD1.5 at 2048 px
    "hires-2048-k9": Shape(1, 2048, 2048, 160, 9),  # SD1.5 at 16384 px; a GPU's memory and patience
}
GPU_ONLY_SHAPES = ("hires-2048-k9",)

# What the tests of backends that need a GPU cross, in every dtype and with both gates.
GPU_TEST_SHAPES = [
    Shape(1, 1, 1, 2, 1, (1,)),
    Shape(1, 2, 2, 4, 17, (1, 2)),
    Shape(2, 8, 8, 32, 3),
    Shape(1, 5, 13, 34, 5, (1, 2, 3)),
    Shape(2, 13, 5, 18, 7, (2, 4)),
    Shape(1, 67, 180, 4, 3, (1, 2, 3)),
    Shape(1, 33, 29, 8, 31, (1, 4)),
    Shape(2, 64, 64, 160, 11),
]


@dataclass(frozen=True)
class Case:
    """One concrete problem: the operator's arguments and a gradient for its result."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    factors: tuple[int, ...]
    gate: str
    gate_scale: float
    residual: Tensor | None
    grad: Tensor

    @property
    def arguments(self) -> tuple:
        return self.x, self.weight, self.bias, self.factors, self.gate, self.gate_scale, self.residual

    @property
    def backward_arguments(self) -> tuple:
        return self.grad, self.x, self.weight, self.bias, self.factors, self.gate, self.gate_scale

    def to(self, *args, **kwargs) -> Case:
        """Every tensor by Tensor.to: another dtype or device."""
        tensors: dict[str, Any] = {
            name: value.to(*args, **kwargs) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


def make_case(
    shape: Shape,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    gate: str = "scaled",
    bias: bool = True,
    residual: bool = False,
    seed: int = 0,
) -> Case:
    """A random problem of ``shape``; activations and gradients of unit scale before and after the operator."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(size, generator=generator, dtype=torch.float64) * scale).to(device, dtype)

    b, h, w, c, k = shape.batch, shape.height, shape.width, shape.inter, shape.kernel_size
    stages = len(shape.factors)
    result = (b, h, w, stages * c // 2)
    return Case(
        x=normal(b, h, w, c),
        weight=normal(stages, k, k, c, scale=1 / k),
        bias=normal(stages, c) if bias else None,
        factors=shape.factors,
        gate=gate,
        gate_scale=1.5,
        residual=normal(*result) if residual else None,
        grad=normal(*result),
    )


def run_with_gradients(function: Callable[..., Tensor], case: Case) -> dict[str, Tensor]:
    """The result of ``function`` on the case and the gradient of every tensor argument, by name."""
    names = ("x", "weight", "bias", "residual")
    leaves: dict[str, Any] = {
        name: getattr(case, name).detach().requires_grad_() for name in names if getattr(case, name) is not None
    }
    y = function(*replace(case, **leaves).arguments)
    grads = torch.autograd.grad(y, list(leaves.values()), case.grad)
    return {"y": y.detach(), **{f"grad_{name}": g for name, g in zip(leaves, grads, strict=True)}}


def oracle(case: Case) -> dict[str, Tensor]:
    """What `run_with_gradients` should give: the reference in float64, differentiated by PyTorch itself."""
    return run_with_gradients(reference.pyramid_forward, case.to(torch.float64))


def relative_error(result: Tensor, expected: Tensor) -> float:
    """‖result - expected‖ / ‖expected‖ in float64; infinite if result holds a NaN, 0 for two empty tensors."""
    result, expected = result.double(), expected.double().to(result.device)
    if result.shape != expected.shape:
        raise ValueError(f"result: expected shape {list(expected.shape)}, got {list(result.shape)}")
    error = torch.linalg.vector_norm(result - expected).item()
    norm = torch.linalg.vector_norm(expected).item()
    return math.inf if math.isnan(error) else error / norm if norm else error


def assert_matches_oracle(case: Case, function: Callable[..., Tensor] = pyramid) -> None:
    """Raise AssertionError unless result and gradients keep the error budget of the case's dtype."""
    budget = ERROR_BUDGET[case.x.dtype]
    expected = oracle(case)
    for name, result in run_with_gradients(function, case).items():
        error = relative_error(result, expected[name])
        assert error <= budget, f"{name}: relative error {error:.2e} exceeds {budget:.0e} ({case.x.dtype})"


@contextmanager
def poisoned_outputs() -> Iterator[None]:
    """Every torch.empty, native code's too, comes filled with NaN: an element left unwritten shows."""
    was_on = torch.are_deterministic_algorithms_enabled()
    was_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    was_filling = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=was_warn_only)
        deterministic.fill_uninitialized_memory = was_filling
