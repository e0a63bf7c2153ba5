"""Every backend against the float64 reference, forward and every gradient, over the operator's grid."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from problems import DTYPES, POOL_SIZES, SIZES, dtype_name, scattered

import deltaconv_kernels as dk
from deltaconv_kernels import reference
from deltaconv_kernels.testing import (
    ERROR_BUDGET,
    Shape,
    assert_matches_oracle,
    make_case,
    oracle,
    relative_error,
    run_with_gradients,
)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("shape", SIZES + POOL_SIZES, ids=str)
def test_matches_the_float64_reference(backend, shape, dtype):
    assert_matches_oracle(make_case(shape, dtype, residual=True))


@pytest.mark.parametrize("kernel_size", range(1, 32, 2))
def test_every_kernel_size(backend, kernel_size):
    assert_matches_oracle(make_case(Shape(1, 12, 11, 20, kernel_size)))


@pytest.mark.parametrize("residual", [False, True], ids=["no-residual", "residual"])
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("gate", reference.GATES)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
def test_gates_bias_and_residual(backend, dtype, gate, bias, residual):
    shape = Shape(2, 9, 14, 36, 5, (1, 2, 3))
    assert_matches_oracle(make_case(shape, dtype, gate=gate, bias=bias, residual=residual))


@pytest.mark.parametrize("kernel_size", [7, 9, 13, 17, 21, 31])
def test_a_steep_sigmoid(backend, kernel_size):
    """The gate multiplies the convolution's rounding errors by its scale: a fast method must not use up the budget."""
    case = make_case(Shape(1, 14, 30, 16, kernel_size, (1,)), gate="sigmoid")
    assert_matches_oracle(replace(case, gate_scale=8.0))


def test_empty_batch(backend):
    case = make_case(Shape(0, 6, 5, 8, 3), residual=True)
    results = run_with_gradients(dk.pyramid, case)
    assert results["y"].shape == (0, 6, 5, 8)
    assert results["grad_x"].shape == case.x.shape
    assert torch.equal(results["grad_weight"], torch.zeros_like(case.weight))
    assert torch.equal(results["grad_bias"], torch.zeros_like(case.bias))


def test_strided_inputs_and_gradients(backend):
    shape = Shape(2, 9, 12, 24, 5)
    case = make_case(shape, residual=True)
    expected = oracle(case)

    x, weight, bias, residual = (
        scattered(t).detach().requires_grad_() for t in (case.x, case.weight, case.bias, case.residual)
    )
    assert not x.is_contiguous()
    y = dk.pyramid(x, weight, bias, case.factors, case.gate, case.gate_scale, residual)
    grads = torch.autograd.grad(y, (x, weight, bias, residual), scattered(case.grad))
    assert relative_error(y.detach(), expected["y"]) <= 1e-5
    for name, grad in zip(("x", "weight", "bias", "residual"), grads, strict=True):
        assert relative_error(grad, expected[f"grad_{name}"]) <= 1e-5, name


def test_channels_last_planes_need_no_copy(backend):
    case = make_case(Shape(2, 10, 7, 12, 3))
    planes = case.x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    y = dk.pyramid(planes.permute(0, 2, 3, 1), *case.arguments[1:])
    assert relative_error(y, oracle(case)["y"]) <= 1e-5


@pytest.mark.parametrize("order", [(0, 3, 1, 2), (0, 2, 1, 3), (1, 2, 0, 3)], ids=str)
def test_permuted_memory(backend, order):
    case = make_case(Shape(2, 10, 7, 12, 3))
    inverse = [order.index(i) for i in range(4)]
    y = dk.pyramid(case.x.permute(order).contiguous().permute(inverse), *case.arguments[1:])
    assert relative_error(y, oracle(case)["y"]) <= 1e-5


def test_expanded_gradient(backend):
    case = make_case(Shape(2, 9, 12, 24, 5))
    leaves = [t.detach().requires_grad_() for t in (case.x, case.weight, case.bias)]
    dk.pyramid(*leaves, case.factors, case.gate, case.gate_scale).sum().backward()  # grad is one element, expanded
    ones = make_case(Shape(2, 9, 12, 24, 5))
    ones.grad.fill_(1)
    expected = oracle(ones)
    for name, leaf in zip(("x", "weight", "bias"), leaves, strict=True):
        assert relative_error(leaf.grad, expected[f"grad_{name}"]) <= 1e-5, name


@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "residual"])
def test_one_gradient_alone(backend, wanted):
    case = make_case(Shape(1, 8, 9, 16, 3), residual=True)
    tensors = {"x": case.x, "weight": case.weight, "bias": case.bias, "residual": case.residual}
    leaf = tensors[wanted] = tensors[wanted].detach().requires_grad_()
    y = dk.pyramid(*list(tensors.values())[:3], case.factors, case.gate, case.gate_scale, tensors["residual"])
    (grad,) = torch.autograd.grad(y, leaf, case.grad)
    assert relative_error(grad, oracle(case)[f"grad_{wanted}"]) <= 1e-5


@pytest.mark.parametrize("gate", reference.GATES)
def test_gradcheck(backend, gate):
    case = make_case(Shape(2, 5, 7, 4, 3, (1, 2, 3)), torch.float64, gate=gate, residual=True)
    leaves = [t.requires_grad_() for t in (case.x, case.weight, case.bias, case.residual)]

    def function(x, weight, bias, residual):
        return dk.pyramid(x, weight, bias, case.factors, gate, 1.3, residual)

    assert torch.autograd.gradcheck(function, leaves)


def test_repeats_its_bits(backend):
    case = make_case(Shape(2, 33, 31, 48, 7))
    first = run_with_gradients(dk.pyramid, case)
    for _ in range(3):
        again = run_with_gradients(dk.pyramid, case)
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("value", [math.inf, math.nan], ids=str)
@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [3, 9, 17, 21])
def test_what_is_not_finite_stays_near(backend, kernel_size, factor, value):
    """In its channel and where its filter reaches. Beyond 8 columns of its stage everything else keeps its bits."""
    row, column, channel, direct = 20, 23, 3, 8  # docs/cpu.md: what is in a tile with it is computed another way
    H, W = 45 * factor, 51 * factor
    case = make_case(Shape(1, H, W, 34, kernel_size, (factor,)), gate="sigmoid")
    clean = dk.pyramid(*case.arguments)
    case.x[0, row * factor, column * factor, channel] = value
    reach = kernel_size // 2
    # in a stage's grid; its upsampling reaches the pixels between one row or column and the next
    margin = 0 if factor == 1 else 1

    def pixels(first, last):
        return slice(max(0, (first - margin) * factor), (last + margin + 1) * factor)

    reached, near = torch.zeros(2, H, W, 17, dtype=torch.bool)
    rows = pixels(row - reach, row + reach)
    reached[rows, pixels(column - reach, column + reach), channel] = True
    near[rows, pixels(column - reach - direct, column + reach + direct), channel] = True
    result = dk.pyramid(*case.arguments)[0]
    assert torch.equal(result[~near], clean[0][~near])
    assert relative_error(result[~reached], clean[0][~reached]) <= ERROR_BUDGET[torch.float32]
    inner = slice((row - reach) * factor, (row + reach + 1) * factor)
    assert not result[inner, (column - reach) * factor : (column + reach + 1) * factor, channel].isfinite().any()


@pytest.mark.parametrize("kernel_size", [3, 7, 9])
def test_an_infinite_gate(backend, kernel_size):
    """sigmoid(+inf) = 1: the result is finite."""
    x = torch.ones(1, 8, 8, 32)
    x[0, 4, 4, 16] = math.inf  # v of the first pair
    weight = torch.zeros(1, kernel_size, kernel_size, 32)
    weight[0, kernel_size // 2, kernel_size // 2] = 1
    result = dk.pyramid(x, weight, None, (1,), "sigmoid")[0, 4, 4, :1]
    assert relative_error(result, torch.ones(1)) <= ERROR_BUDGET[torch.float32]


def test_the_reference_is_the_written_definition():
    """The specification itself, pixel by pixel in Python, on a problem small enough for that."""
    shape = Shape(1, 5, 7, 4, 3, (1, 2))
    case = make_case(shape, torch.float64, gate="sigmoid")
    x, weight, bias = case.x[0], case.weight, case.bias
    expected = torch.empty(5, 7, 4, dtype=torch.float64)
    for i, f in enumerate(shape.factors):
        h, w = 5 // f, 7 // f
        pooled = torch.empty(h, w, 4, dtype=torch.float64)
        for r in range(h):
            for c in range(w):
                rows = slice(r * 5 // h, -(-(r + 1) * 5 // h))
                columns = slice(c * 7 // w, -(-(c + 1) * 7 // w))
                pooled[r, c] = x[rows, columns].mean(dim=(0, 1))
        gated = torch.empty(1, 2, h, w, dtype=torch.float64)
        for r in range(h):
            for c in range(w):
                a = bias[i].clone()
                for kr in range(3):
                    for kc in range(3):
                        if 0 <= r + kr - 1 < h and 0 <= c + kc - 1 < w:
                            a += weight[i, kr, kc] * pooled[r + kr - 1, c + kc - 1]
                gated[0, :, r, c] = a[:2] / (1 + torch.exp(-case.gate_scale * a[2:]))
        upsampled = F.interpolate(gated, size=(5, 7), mode="bilinear", align_corners=False)
        expected[..., 2 * i : 2 * i + 2] = upsampled[0].permute(1, 2, 0)
    y = reference.pyramid_forward(*case.arguments)
    assert relative_error(y[0], expected) <= 1e-14


def test_errors_see_a_nan():
    assert relative_error(torch.tensor([1.0, math.nan]), torch.ones(2)) == math.inf
