"""What bad input gets: a ValueError that names the argument, what was expected and what came."""

from dataclasses import replace

import pytest
import torch

import deltaconv_kernels as dk
from deltaconv_kernels.testing import Shape, make_case

SHAPE = Shape(1, 6, 5, 8, 3)


def case_with(**changes):
    return replace(make_case(SHAPE, residual=True), **changes)


BAD = {
    "x-not-4d": (dict(x=torch.zeros(6, 5, 8)), r"x: expected 4 dimensions .* got shape \[6, 5, 8\]"),
    "x-integer": (dict(x=torch.zeros(1, 6, 5, 8, dtype=torch.int64)), r"x: expected one of float32.* got torch.int64"),
    "x-complex": (dict(x=torch.zeros(1, 6, 5, 8, dtype=torch.complex64)), r"x: expected one of .* got torch.complex64"),
    "C-odd": (dict(x=torch.zeros(1, 6, 5, 7)), r"x: expected an even number of channels C, 2 or more, got C = 7"),
    "C-zero": (dict(x=torch.zeros(1, 6, 5, 0)), r"x: expected an even number of channels C, .* got C = 0"),
    "K-even": (dict(weight=torch.zeros(2, 4, 4, 8)), r"weight: expected square odd filters of 1 to 31, got 4 x 4"),
    "K-too-large": (dict(weight=torch.zeros(2, 33, 33, 8)), r"weight: .* got 33 x 33"),
    "K-not-square": (dict(weight=torch.zeros(2, 3, 5, 8)), r"weight: .* got 3 x 5"),
    "weight-not-4d": (dict(weight=torch.zeros(2, 3, 8)), r"weight: expected 4 dimensions .* got shape \[2, 3, 8\]"),
    "weight-C": (dict(weight=torch.zeros(2, 3, 3, 6)), r"weight: expected C = 8 channels .* got shape \[2, 3, 3, 6\]"),
    "weight-S": (
        dict(weight=torch.zeros(3, 3, 3, 8)),
        r"factors: expected one per stage of weight, S = 3, got \[1, 2\]",
    ),
    "bias-shape": (dict(bias=torch.zeros(2, 4)), r"bias: expected \[S, C\] = \[2, 8\], got shape \[2, 4\]"),
    "bias-dims": (dict(bias=torch.zeros(8)), r"bias: expected \[S, C\] = \[2, 8\], got shape \[8\]"),
    "factor-zero": (dict(factors=(1, 0)), r"factors: expected 1 to min\(H, W\) for x of 6 x 5, got 0"),
    "factor-large": (dict(factors=(1, 6)), r"factors: expected 1 to min\(H, W\) for x of 6 x 5, got 6"),
    "no-stages": (dict(factors=(), weight=torch.zeros(0, 3, 3, 8)), r"factors: expected one per stage"),
    "gate": (dict(gate="relu"), r"gate: expected one of \('scaled', 'sigmoid'\), got 'relu'"),
    "weight-dtype": (
        dict(weight=torch.zeros(2, 3, 3, 8).half()),
        r"weight: expected the dtype of x, torch.float32, got torch.float16",
    ),
    "bias-dtype": (dict(bias=torch.zeros(2, 8).double()), r"bias: expected the dtype of x"),
    "residual-dtype": (dict(residual=torch.zeros(1, 6, 5, 8).half()), r"residual: expected the dtype of x"),
    "weight-device": (
        dict(weight=torch.zeros(2, 3, 3, 8, device="meta")),
        r"weight: expected the device of x, cpu, got meta",
    ),
    "residual-shape": (
        dict(residual=torch.zeros(1, 6, 5, 4)),
        r"residual: expected .* = \[1, 6, 5, 8\], got shape \[1, 6, 5, 4\]",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        dk.pyramid(*case_with(**changes).arguments)


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_without_data(changes, message):
    """The same errors while tracing: shapes alone, on the meta device."""
    if "got meta" in message:
        changes = {"weight": torch.zeros(2, 3, 3, 8, device="cpu")}
        message = "weight: expected the device of x, meta, got cpu"
        case = replace(case_with().to("meta"), **changes)
    else:
        case = case_with(**changes).to("meta")
    with pytest.raises(ValueError, match=message):
        dk.pyramid(*case.arguments)


def test_bad_gradient_shape():
    case = make_case(SHAPE)
    with pytest.raises(ValueError, match=r"grad: expected .* = \[1, 6, 5, 8\], got shape \[1, 6, 5, 4\]"):
        torch.ops.deltaconv.pyramid_backward(case.grad[..., :4], *case.backward_arguments[1:], [True] * 3)


def test_double_backward_says_why():
    case = make_case(SHAPE)
    x = case.x.requires_grad_()
    y = dk.pyramid(x, *case.arguments[1:])
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(kernel_size=4), "kernel_size: expected an odd number from 1 to 31, got 4"),
        (dict(kernel_size=33), "kernel_size: .* got 33"),
        (dict(factors=()), r"factors: expected one or more integers >= 1, got \(\)"),
        (dict(factors=(1, 0)), r"factors: .* got \(1, 0\)"),
        (dict(gate="relu"), "gate: expected one of .* got 'relu'"),
    ],
    ids=str,
)
def test_bad_blocks(arguments, message):
    with pytest.raises(ValueError, match=message):
        dk.DeltaConvBlock(16, **arguments)


def test_block_names_its_input():
    with pytest.raises(ValueError, match=r"x: expected \[B, H, W, dim = 16\], got shape \[2, 4, 4, 8\]"):
        dk.DeltaConvBlock(16)(torch.zeros(2, 4, 4, 8))
