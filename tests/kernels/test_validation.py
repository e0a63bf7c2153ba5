"""What bad input gets: a ValueError that names the argument, what was expected and what came."""

import re
from dataclasses import replace

import numpy as np
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
    "weight-C": (
        dict(weight=torch.zeros(2, 3, 3, 6)),
        r"weight: .* C = 8 channels .* got shape \[2, 3, 3, 6\]",
    ),
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


# What the operator's schema refuses, in words of the contract: no tensors are looked at.
BAD_TYPES = {
    "x-None": (dict(x=None), "x: expected a torch.Tensor, got None"),
    "x-numpy": (dict(x=np.zeros((1, 6, 5, 8), np.float32)), "x: expected a torch.Tensor, got numpy.ndarray"),
    "x-list": (dict(x=[1.0]), "x: expected a torch.Tensor, got builtins.list"),
    "weight-None": (dict(weight=None), "weight: expected a torch.Tensor, got None"),
    "bias-number": (dict(bias=0.0), "bias: expected a torch.Tensor, got builtins.float"),
    "residual-numpy": (dict(residual=np.zeros(1)), "residual: expected a torch.Tensor, got numpy.ndarray"),
    "factors-number": (dict(factors=2), "factors: expected a sequence of integers, one per stage, got 2"),
    "factors-text": (dict(factors="12"), "factors: expected a sequence of integers, one per stage, got '12'"),
    "factors-floats": (dict(factors=(1.0, 2.5)), r"factors: expected a sequence of integers.* got \(1.0, 2.5\)"),
    "factors-None": (dict(factors=None), "factors: expected a sequence of integers, one per stage, got None"),
    "gate-None": (dict(gate=None), r"gate: expected one of \('scaled', 'sigmoid'\), got None"),
    "gate_scale-text": (dict(gate_scale="1"), "gate_scale: expected a number, got '1'"),
}
SPARSE = {
    "x": (dict(x=torch.zeros(1, 6, 5, 8).to_sparse()), "x: expected a dense tensor, got layout torch.sparse_coo"),
    "weight": (dict(weight=torch.zeros(2, 3, 3, 8).to_sparse()), "weight: expected a dense tensor, got layout"),
    "bias": (
        dict(bias=torch.zeros(2, 8).to_sparse_csr()),
        "bias: expected a dense tensor, got layout",
    ),
    "residual": (dict(residual=torch.zeros(1, 6, 5, 8).to_sparse()), "residual: expected a dense tensor, got layout"),
}


NESTED = {
    "x-nested": (
        dict(x=torch.nested.nested_tensor([torch.zeros(6, 5, 8)])),
        "x: expected a dense tensor, got a nested one",
    ),
}


@pytest.mark.parametrize("recorded", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize(
    ("changes", "message"), (BAD_TYPES | SPARSE | NESTED).values(), ids=BAD_TYPES | SPARSE | NESTED
)
def test_bad_types(changes, message, recorded):
    case = case_with(**changes)
    for tensor in (case.x, case.weight):
        if isinstance(tensor, torch.Tensor):
            tensor.requires_grad_(recorded)
    with pytest.raises(ValueError, match=message):
        dk.pyramid(*case.arguments)


@pytest.mark.parametrize(("changes", "message"), (BAD_TYPES | SPARSE).values(), ids=BAD_TYPES | SPARSE)
def test_bad_types_of_the_operator_itself(changes, message):
    """What is no type of the schema is refused in torch's words, which name the argument; the rest in ours."""
    with pytest.raises((ValueError, RuntimeError)) as error:
        torch.ops.deltaconv.pyramid(*case_with(**changes).arguments)
    ((name, _),) = changes.items()
    if isinstance(error.value, ValueError):
        assert re.search(message, str(error.value))
    else:
        assert re.search(f"argument '{name}'", str(error.value))
        assert "Declaration: deltaconv::pyramid(Tensor x" in str(error.value)


@pytest.mark.parametrize("weight", [torch.zeros(8, 1, 3, 3), torch.zeros(16, 1, 3, 3)], ids=["S=1", "S=2"])
def test_a_weight_in_the_layout_of_conv2d_is_named_as_such(weight):
    stages = len(weight) // 8
    with pytest.raises(ValueError, match=r"weight: .* this is conv2d's layout, \[C, 1, K, K\] for each stage") as error:
        dk.pyramid(torch.zeros(1, 6, 5, 8), weight, None, (1,) * stages)
    advice = str(error.value).split("stage: ")[1].removesuffix(" is the pyramid's")
    right = eval(advice, {"weight": weight, "S": stages, "C": 8})
    assert dk.pyramid(torch.zeros(1, 6, 5, 8), right, None, (1,) * stages).shape == (1, 6, 5, 4 * stages)


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
        (dict(dim=0), "dim: expected an integer >= 1, got 0"),
        (dict(dim=16.0), "dim: expected an integer >= 1, got 16.0"),
        (dict(kernel_size=4), "kernel_size: expected an odd integer from 1 to 31, got 4"),
        (dict(kernel_size=33), "kernel_size: .* got 33"),
        (dict(kernel_size="auto"), "kernel_size: .* got 'auto'"),
        (dict(kernel_size=9.0), "kernel_size: .* got 9.0"),
        (dict(kernel_size=None), "kernel_size: .* got None"),
        (dict(factors=()), r"factors: expected one or more integers >= 1, got \(\)"),
        (dict(factors=(1, 0)), r"factors: .* got \(1, 0\)"),
        (dict(factors=2), "factors: .* got 2"),
        (dict(factors="12"), "factors: .* got '12'"),
        (dict(factors=(1, 2.0)), r"factors: .* got \(1, 2.0\)"),
        (dict(expansion=-1), "expansion: expected a number above 0, got -1"),
        (dict(expansion=0), "expansion: .* got 0"),
        (dict(expansion=float("nan")), "expansion: .* got nan"),
        (dict(expansion="half"), "expansion: .* got 'half'"),
        (dict(gate="relu"), "gate: expected one of .* got 'relu'"),
    ],
    ids=str,
)
def test_bad_blocks(arguments, message):
    with pytest.raises(ValueError, match=message):
        dk.DeltaConvBlock(**{"dim": 16, **arguments})


def test_integers_of_numpy_are_integers():
    block = dk.DeltaConvBlock(np.int64(16), kernel_size=np.int64(3), factors=list(np.array([1, 2])))
    assert block(torch.zeros(1, 4, 4, 16)).shape == (1, 4, 4, 16)


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("recorded", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize(
    ("x", "residual", "message"),
    [
        (torch.zeros(2, 4, 4, 8), None, r"x: expected \[B, H, W, dim = 16\], got shape \[2, 4, 4, 8\]"),
        (torch.zeros(4, 4, 16), None, r"x: expected \[B, H, W, dim = 16\], got shape \[4, 4, 16\]"),
        (None, None, "x: expected a torch.Tensor, got None"),
        (np.zeros((2, 4, 4, 16), np.float32), None, "x: expected a torch.Tensor, got numpy.ndarray"),
        (torch.zeros(2, 4, 4, 16).to_sparse(), None, "x: expected a dense tensor"),
        (
            torch.zeros(2, 4, 4, 16).double(),
            None,
            "x: expected the dtype of the block's parameters",
        ),
        (torch.zeros(2, 4, 4, 16), torch.zeros(1, 1, 1, 16), r"residual: expected the shape of x = .* \[1, 1, 1, 16\]"),
        (torch.zeros(2, 4, 4, 16), torch.zeros(2, 4, 4, 1), r"residual: expected the shape of x = .* \[2, 4, 4, 1\]"),
        (
            torch.zeros(2, 4, 4, 16),
            torch.zeros(2, 4, 4, 16).double(),
            "residual: expected the dtype of x, torch.float32",
        ),
        (torch.zeros(2, 4, 4, 16), 1.0, "residual: expected a torch.Tensor, got builtins.float"),
    ],
    ids=["dim", "3d", "None", "numpy", "sparse", "float64", "row", "column", "float64-residual", "number"],
)
def test_a_block_names_its_input(x, residual, message, recorded, autocast):
    block = dk.DeltaConvBlock(16, kernel_size=3).requires_grad_(recorded)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), pytest.raises(ValueError, match=message):
        block(x, residual)


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("recorded", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("residual", torch.zeros(1, 1, 1, 16), r"residual: expected the shape of x = \[2, 4, 4, 16\]"),
        ("residual", torch.zeros(2, 4, 4, 1), r"residual: expected the shape of x"),
        ("residual", torch.zeros(2, 4, 4, 16).double(), "residual: expected the dtype of x, torch.float32"),
        ("pool_weight", torch.zeros(1, 16), r"pool_weight: expected \[outputs, inputs\] = \[16, 16\]"),
        ("out_bias", torch.zeros(1), r"out_bias: expected \[outputs\] = \[16\]"),
        ("out_weight", torch.zeros(16, 8).double(), "out_weight: expected the dtype of x, torch.float32"),
        ("pool_weight", None, "pool_weight: expected a torch.Tensor, got None"),
        ("x", None, "x: expected a torch.Tensor, got None"),
        ("factors", 2, "factors: expected a sequence of integers, one per stage, got 2"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_a_block_as_a_function_names_its_arguments(name, value, message, recorded, autocast):
    """The same with and without gradients, and under autocast, which makes one dtype of those it casts."""
    block = dk.DeltaConvBlock(16, kernel_size=3).requires_grad_(recorded)
    arguments = block.arguments(torch.zeros(2, 4, 4, 16))._replace(**{name: value})
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), pytest.raises(ValueError, match=message):
        dk.delta_block(*arguments)
