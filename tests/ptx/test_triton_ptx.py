"""What Triton makes of its kernels, executed: the launcher's own launches, against the float64 reference.

`-m ptx_full` runs every problem below. Both work on the Triton that is installed.
"""

import random
from dataclasses import replace
from functools import cache

import pytest
import torch

import deltaconv_kernels as dk
from deltaconv_kernels.testing import (
    ERROR_BUDGET,
    Shape,
    make_case,
    oracle,
    relative_error,
    run_with_gradients,
)

pytest.importorskip("triton", reason="triton is not installed")

from count_triton import MULTIPROCESSORS, SCHEDULERS, cycles
from triton_on_executor import Gpu, triton_backend

from deltaconv_kernels.triton import launch

SINGLE, HALF, BRAIN = DTYPES = torch.float32, torch.float16, torch.bfloat16
ARCHITECTURES = 80, 90, 100
POOLED = [
    (Shape(1, 4, 4, 4, 1, (2,)), "scaled"),
    (Shape(1, 5, 7, 4, 1, (2,)), "sigmoid"),
    (Shape(1, 6, 9, 4, 1, (3,)), "sigmoid"),
    (Shape(1, 7, 5, 4, 1, (3,)), "scaled"),
    (Shape(1, 4, 8, 4, 1, (4,)), "scaled"),
    (Shape(1, 9, 11, 4, 1, (4,)), "sigmoid"),
]


def gradients_on(gpu, case):
    with triton_backend(gpu):
        return run_with_gradients(dk.pyramid, case)


def assert_matches(architecture, case):
    """Within the budget of float64, and the same bits where blocks and warps run in another order."""
    results, again = (gradients_on(Gpu(architecture, order), case) for order in (0, 1))
    expected = oracle(case)
    for name, result in results.items():
        error = relative_error(result, expected[name])
        assert error <= ERROR_BUDGET[case.x.dtype], f"{name}: relative error {error:.2e}"
        assert torch.equal(result, again[name]), name


EVERY_RUN = pytest.mark.parametrize(
    ("architecture", "dtype", "shape", "options"),
    [
        (90, BRAIN, Shape(1, 5, 9, 6, 3), {"residual": True}),  # 2 divides neither H nor W
        (80, HALF, Shape(2, 4, 4, 34, 1, (2,)), {"gate": "sigmoid", "bias": False}),  # a channel beyond one block
        (100, SINGLE, Shape(1, 6, 9, 4, 1, (3, 1)), {"residual": True}),
    ],
    ids=str,
)


@EVERY_RUN
def test_matches_the_float64_reference(architecture, dtype, shape, options):
    assert_matches(architecture, make_case(shape, dtype, **options))


def divided(shape):
    return [shape.height % f == 0 and shape.width % f == 0 for f in shape.factors]


def other_sizes(shape, number):
    """Batches, heights and widths, divided by the same factors: the kernels compiled for `shape` take them."""
    draw = random.Random(0)
    low, high = max(shape.factors), 24
    while number:
        drawn = replace(shape, batch=draw.randint(1, 3), height=draw.randint(low, high), width=draw.randint(low, high))
        if divided(drawn) == divided(shape):
            yield drawn
            number -= 1


@EVERY_RUN
def test_other_sizes(architecture, dtype, shape, options):
    for other in other_sizes(shape, 8):
        assert_matches(architecture, make_case(other, dtype, **options))


def one_element_off(tensor):
    return torch.cat([tensor.flatten()[:1], tensor.flatten()])[1:].view_as(tensor)


@cache
def narrow_case():
    case = make_case(Shape(1, 3, 10, 4, 1, (1,)), HALF, residual=True)
    tensors = {name: one_element_off(getattr(case, name)) for name in ("x", "weight", "bias", "residual", "grad")}
    assert all(tensor.data_ptr() % 16 for tensor in tensors.values())
    return replace(case, **tensors)


def test_tensors_that_allow_no_wide_access():
    assert_matches(80, narrow_case())


def test_counts():
    """Of one block: 8 patches of 4 x 8 outputs, two of them inside of x, by 16 pairs of channels, on 4 warps."""
    with triton_backend(Gpu(80)) as launches:
        dk.pyramid(*narrow_case().arguments)
    (forward,) = launches
    assert forward.grid == (1, 1, 1)
    outputs = 4 * 8 * 4  # of a lane, times warps: two products, and the gate with the residual
    assert round(cycles(forward).multiply_adds * MULTIPROCESSORS * SCHEDULERS) == 3 * outputs
    counts = forward.counts
    loaded = sum(n for o, n in zip(counts.opcodes, counts.lanes.tolist(), strict=True) if o == "ld.global.b16")
    pixels, pairs, lanes = 3 * 10, 2, 8 * 2  # the weights and the bias are loaded by every patch's lanes
    assert loaded == 2 * (pixels * pairs + 4 * lanes + lanes) + pixels * pairs  # and the residual


@pytest.mark.ptx_full
@pytest.mark.parametrize(
    ("architecture", "dtype", "shape", "gate"),
    [
        (architecture, DTYPES[(i + j) % 3], *problem)
        for i, problem in enumerate(POOLED)
        for j, architecture in enumerate(ARCHITECTURES)
    ],
    ids=str,
)
def test_pooled_windows(architecture, dtype, shape, gate):
    for each in (shape, *other_sizes(shape, 16)):
        assert_matches(architecture, make_case(each, dtype, gate=gate))


@pytest.mark.ptx_full
@pytest.mark.parametrize(
    ("architecture", "dtype", "kernel_size"),
    [(ARCHITECTURES[i % 3], DTYPES[(i + i // 3) % 3], K) for i, K in enumerate(range(1, 32, 2))],
    ids=str,
)
def test_every_kernel_size(architecture, dtype, kernel_size):
    assert_matches(architecture, make_case(Shape(1, 3, 10, 4, kernel_size, (1,)), dtype, residual=True))


@pytest.mark.ptx_full
@pytest.mark.parametrize(
    ("architecture", "dtype", "shape", "options"),
    [
        (90, HALF, Shape(3, 16, 24, 34, 1, (1,)), {"gate": "sigmoid", "bias": False}),  # many blocks of either axis
        (100, BRAIN, Shape(2, 8, 16, 4, 7, (2,)), {"gate": "sigmoid"}),  # the windows that LLVM once summed by vectors
        (90, SINGLE, Shape(2, 8, 16, 4, 7, (2,)), {}),
        (80, BRAIN, Shape(1, 5, 13, 34, 3, (1, 2, 3)), {"residual": True}),
        (100, HALF, Shape(1, 13, 5, 18, 5, (2, 4)), {"residual": True, "gate": "sigmoid"}),
        (90, HALF, Shape(1, 9, 9, 4, 31, (2,)), {}),  # no bound on registers keeps it from spilling
    ],
    ids=str,
)
def test_larger_problems(architecture, dtype, shape, options):
    assert_matches(architecture, make_case(shape, dtype, **options))


@pytest.mark.ptx_full
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_partial_sums(architecture):
    shape = Shape(2, 20, 60, 4, 1, (2,))
    assert launch.partitions(shape.batch, shape.height, shape.width) == 3
    assert_matches(architecture, make_case(shape, DTYPES[ARCHITECTURES.index(architecture)]))


@pytest.mark.ptx_full
def test_strided_inputs():
    case = make_case(Shape(1, 3, 10, 4, 1, (1,)), HALF)
    x, grad = case.x.transpose(1, 2).contiguous().transpose(1, 2), case.grad[..., :1].expand_as(case.grad)
    assert not x.is_contiguous()
    assert_matches(80, replace(case, x=x, grad=grad))
