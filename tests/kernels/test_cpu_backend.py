"""What only the native CPU backend has: instruction sets, threads, tiles and their edges."""

import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import deltaconv_kernels as dk
from deltaconv_kernels import reference
from deltaconv_kernels.testing import (
    ERROR_BUDGET,
    Shape,
    assert_matches_oracle,
    make_case,
    relative_error,
    run_with_gradients,
)

INSTRUCTION_SETS = ("baseline", "avx2", "avx512")

# Forward and every gradient in a process of its own: the choice is made once, at the first call.
CHECK_INSTRUCTION_SET = """
import torch
from deltaconv_kernels import backends, use_backend
from deltaconv_kernels.testing import Shape, assert_matches_oracle, make_case, poisoned_outputs

assert backends()["cpu"].available  # loads the library
print(torch.ops.deltaconv.cpu_isa())
shapes = [Shape(1, 9, 13, 34, K, (1, 2)) for K in (*range(1, 19, 2), 31)]
shapes += [Shape(2, 5, 3, 6, 5, (1, 3)), Shape(1, 16, 33, 64, 3, (2,)), Shape(1, 6, 67, 2, 7, (1, 4))]
with use_backend("cpu"), poisoned_outputs():
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for shape in shapes if dtype == torch.float32 else shapes[3::4]:
            for gate in ("scaled", "sigmoid"):
                assert_matches_oracle(make_case(shape, dtype, gate=gate, residual=gate == "scaled"))
"""


def run_with_instruction_set(name, code):
    environment = {**os.environ, "DELTACONV_CPU_ISA": name, "OMP_NUM_THREADS": "2"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_every_instruction_set_matches_the_reference(name):
    result = run_with_instruction_set(name, CHECK_INSTRUCTION_SET)
    if "this machine lacks these instructions" in result.stderr or "expected one of" in result.stderr:
        pytest.skip(result.stderr.strip().splitlines()[-1])
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [name]


def test_an_unknown_instruction_set_is_named():
    code = "import torch, deltaconv_kernels as dk; dk.backends(); torch.ops.deltaconv.cpu_isa()"
    result = run_with_instruction_set("sse9", code)
    assert result.returncode != 0
    assert "DELTACONV_CPU_ISA: expected one of" in result.stderr
    assert "got 'sse9'" in result.stderr


@pytest.mark.parametrize("kernel_size", range(1, 33, 2))
def test_a_convolutions_tile_takes_the_fewest_products(kernel_size):
    def products(tile):  # for an output and a kernel row: docs/cpu.md
        return -(-kernel_size // tile) * (2 * tile - 1) / tile

    assert dk.backends()["cpu"].available  # loads the library
    tile = torch.ops.deltaconv.cpu_convolution_tile(kernel_size)
    assert tile == (1 if kernel_size < 7 else min((4, 5), key=products))


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [Shape(1, 61, 47, 34, 7, (1, 2, 3)), Shape(2, 24, 150, 16, 17)], ids=str)
def test_same_bits_for_any_number_of_threads(threads, shape, dtype):
    case = make_case(shape, dtype, residual=True)
    expected = None
    with dk.use_backend("cpu"):
        for count in (1, 2, 3, 8):
            threads(count)
            got = run_with_gradients(dk.pyramid, case)
            expected = expected or got
            for name, value in got.items():
                assert torch.equal(value, expected[name]), f"{name} with {count} threads"


def test_obeys_set_num_threads(threads):
    """A pool that grew in spite of torch.set_num_threads(1) would show in the process's list of threads."""
    code = """
import os, torch
torch.set_num_threads(1)
from deltaconv_kernels import pyramid
from deltaconv_kernels.testing import Shape, make_case
case = make_case(Shape(1, 64, 64, 64, 7))
before = len(os.listdir("/proc/self/task"))
pyramid(*case.arguments)
print(len(os.listdir("/proc/self/task")) - before)
"""
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("counts threads in /proc")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["0"], result.stderr


# Wider than a panel of columns, so that several tasks share rows; one channel pair beyond a block of 16.
@pytest.mark.parametrize("kernel_size", [3, 17, 31])
def test_wide_images(kernel_size):
    width = {3: 600, 17: 150, 31: 100}[kernel_size]
    with dk.use_backend("cpu"):
        assert_matches_oracle(make_case(Shape(1, 7, width, 34, kernel_size, (1, 2, 3))))


# The fast method (K >= 7) adds and subtracts inputs before it multiplies: what does it cost in accuracy?
@pytest.mark.parametrize("kernel_size", [5, 7, 9, 11, 13])
@pytest.mark.parametrize("scaling", ["offset", "channels", "bright spot"])
def test_badly_scaled_inputs(kernel_size, scaling):
    case = make_case(Shape(1, 24, 31, 32, kernel_size))
    x = case.x.clone()
    if scaling == "offset":
        x += 30
    elif scaling == "channels":
        x *= 10 ** torch.linspace(-3, 3, 32)
    else:
        x[:, 12, 15] *= 1000
    with dk.use_backend("cpu"):
        assert_matches_oracle(replace(case, x=x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("gate", reference.GATES)
@pytest.mark.parametrize("factors", [(1,), (3,), (1, 4)], ids=str)
@pytest.mark.parametrize("kernel_size", [7, 9, 13])
def test_what_is_not_finite_is_so_by_the_definition(kernel_size, factors, gate, dtype):
    """Tiles (docs/cpu.md) make NaN of all they hold; what comes out is NaN or infinite where the reference is."""
    case = make_case(Shape(1, 40, 61, 34, kernel_size, factors), dtype, gate=gate, residual=True)
    values = (math.inf, -math.inf, math.nan)
    for i, (y, x, c) in enumerate([(20, 30, 3), (21, 33, 21), (0, 0, 16), (39, 60, 33), (5, 59, 0), (20, 31, 2)]):
        case.x[0, y, x, c] = values[i % 3]
    with dk.use_backend("cpu"):
        result = dk.pyramid(*case.arguments)
    expected = reference.pyramid_forward(*case.arguments)
    full = slice(0, 17 if factors[0] == 1 else 0)  # channels of the stage of factor 1
    for kind in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(kind(result[..., full]), kind(expected[..., full])), kind.__name__
    # Where upsampling weighs a value by zero, the reference makes NaN of an infinity and the kernels leave it out.
    assert not (result.isnan() & ~expected.isnan()).any()
    assert not (~result.isfinite() & expected.isfinite()).any()
    finite = expected.isfinite()
    assert relative_error(result[finite], expected[finite]) <= 2 * ERROR_BUDGET[dtype]


def test_a_weight_that_is_not_finite():
    case = make_case(Shape(2, 12, 13, 34, 9))
    case.weight[0, 4, 4, 5] = math.inf
    with dk.use_backend("cpu"):
        result = dk.pyramid(*case.arguments)
    expected = reference.pyramid_forward(*case.arguments)
    assert torch.equal(result.isfinite(), expected.isfinite())
    assert torch.equal(result.isfinite().all(dim=(0, 1, 2)).logical_not().nonzero().flatten(), torch.tensor([5]))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_what_is_not_finite_for_any_number_of_threads(threads):
    case = make_case(Shape(1, 70, 61, 34, 9))
    case.x[0, 33, 20, 7] = math.nan
    before = torch.get_num_threads()
    results = []
    with dk.use_backend("cpu"):
        for count in (before, threads):
            torch.set_num_threads(count)
            results.append(dk.pyramid(*case.arguments))
        torch.set_num_threads(before)
    assert torch.equal(*(result.nan_to_num(nan=7.0) for result in results))


def test_large_results():
    """Memory that comes fresh from the system, in huge pages where it has them."""
    with dk.use_backend("cpu"):
        assert_matches_oracle(make_case(Shape(1, 261, 260, 34, 3)))


def test_channels_last_is_read_in_place():
    """A channels_last NCHW tensor permuted has dense channels: as fast and as exact as a contiguous NHWC one."""
    case = make_case(Shape(2, 9, 11, 24, 5))
    x = case.x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    sliced = torch.cat([case.x, case.x], dim=-1)[..., :24]  # a pixel's channels are dense, pixels are not
    with dk.use_backend("cpu"):
        expected = dk.pyramid(*case.arguments)
        for view in (x, sliced):
            assert torch.equal(dk.pyramid(view, *case.arguments[1:]), expected)


def test_natively_checked_arguments():
    """The internal operator guards memory even where Python's validation is bypassed."""
    case = make_case(Shape(1, 4, 4, 8, 3))
    op = torch.ops.deltaconv.pyramid_cpu
    with pytest.raises(RuntimeError, match="factors: expected"):
        op(case.x, case.weight, case.bias, [1, 9], 0, 1.0, None)
    with pytest.raises(RuntimeError, match="weight: expected"):
        op(case.x, case.weight[..., :6], case.bias, [1, 2], 0, 1.0, None)
    with pytest.raises(RuntimeError, match="bias: expected the dtype of x"):
        op(case.x, case.weight, case.bias.double(), [1, 2], 0, 1.0, None)
    with pytest.raises(RuntimeError, match="residual: expected shape"):
        op(case.x, case.weight, case.bias, [1, 2], 0, 1.0, case.x[..., :4])
    with pytest.raises(RuntimeError, match="gate: expected"):
        op(case.x, case.weight, case.bias, [1, 2], 2, 1.0, None)
