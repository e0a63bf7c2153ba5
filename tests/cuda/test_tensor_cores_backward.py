"""The backward pass on tensor cores, run on the CPU: every gradient against the float64 oracle."""

import itertools
from dataclasses import replace

import pytest
import torch
from host_build import HostPyramid, backward, device, plan_problem

from deltaconv_kernels.reference import stage_sizes
from deltaconv_kernels.testing import (
    ERROR_BUDGET,
    NAMED_SHAPES,
    Shape,
    assert_matches_oracle,
    make_case,
    oracle,
    relative_error,
    run_with_gradients,
)

DTYPES = [torch.bfloat16, torch.float16]
TENSOR_CORES = "tensor_cores"
EVERYTHING = (True, True, True)


@pytest.fixture(params=DTYPES, ids=["bfloat16", "float16"])
def dtype(request):
    return request.param


# Tails in C, H and W; planes begin at every element of a word.
@pytest.mark.parametrize("kernel_size", range(7, 26, 2))
def test_kernel_sizes(tensor_cores, kernel_size, dtype):
    gate = "scaled" if kernel_size % 4 == 1 else "sigmoid"
    assert_matches_oracle(
        make_case(Shape(1, 9, 21, 18, kernel_size), dtype, gate=gate, bias=gate == "scaled"), tensor_cores
    )


SHAPES = [
    Shape(2, 5, 3, 6, 7, (1, 3)),
    Shape(1, 1, 1, 2, 9, (1,)),
    Shape(1, 17, 67, 16, 7, (1, 4)),
    Shape(1, 67, 6, 36, 11, (2,)),
    Shape(1, 7, 7, 32, 7, (7, 2, 1)),
    Shape(1, 20, 17, 32, 9, (1, 2, 1)),
    Shape(1, 37, 40, 32, 7, (3, 4)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(tensor_cores, shape, dtype):
    assert_matches_oracle(make_case(shape, dtype), tensor_cores)


# K with the tiles there are for it (layout/banded_tile.h), each in the launch through the gate and in that of x.
TILES = [
    *itertools.product((7, 13), ((16, 16), (32, 16), (32, 32)), ("gate", "input")),
    *itertools.product((25,), ((16, 16), (32, 16)), ("gate", "input")),
]


def cta_of(tile, launch):
    """Rows, columns and threads: the launch through the gate has 512 threads, the others may have fewer."""
    return (*tile, 512 if launch == "gate" else 256)


@pytest.mark.parametrize(("kernel_size", "tile", "launch"), TILES, ids=str)
def test_every_tile(host, kernel_size, tile, launch):
    dtype = torch.float16 if kernel_size == 13 else torch.bfloat16
    case = make_case(Shape(1, 40, 60, 2, kernel_size), dtype)  # several of each tile, tails in H and W
    cta = cta_of(tile, launch)
    problem = plan_problem(case.x.shape, case.factors, kernel_size, dtype, TENSOR_CORES, cta=cta)
    plan = getattr(host.backward_plan(problem, device("h100")), launch)
    assert {(tiling.rows, tiling.cols) for tiling in plan.tilings} == {tile}
    assert_matches_oracle(case, HostPyramid(path=TENSOR_CORES, cta=cta))


# K, the tiles of stages at full resolution in the launch through the gate, and those of reduced stages.
TILES_OF_STAGES = [
    *((kernel_size, full, (16, 16)) for kernel_size, full in itertools.product((7, 13), ((32, 16), (32, 32)))),
    (13, (32, 32), (32, 16)),
    (25, (32, 16), (16, 16)),
]


@pytest.mark.parametrize(("kernel_size", "full", "reduced"), TILES_OF_STAGES, ids=str)
def test_reduced_stages_have_tiles_of_their_own(host, kernel_size, full, reduced):
    dtype = torch.bfloat16 if kernel_size == 13 else torch.float16
    case = make_case(Shape(1, 66, 70, 2, kernel_size), dtype)  # several of each tile, tails in H and W
    pyramid = HostPyramid(path=TENSOR_CORES, cta=cta_of(full, "gate"), reduced_tile=reduced)
    plan = host.backward_plan(pyramid.planned(case.x, case.weight, case.factors), device("h100")).gate
    assert [(tiling.rows, tiling.cols) for tiling in plan.tilings] == [full, reduced]
    assert_matches_oracle(case, pyramid)


def grads_of(case, pyramid, grad=None, x=None):
    _, *rest = case.backward_arguments
    rest[0] = case.x if x is None else x
    return backward(case.grad if grad is None else grad, *rest, EVERYTHING, pyramid)


def test_strided_and_expanded_tensors(tensor_cores, dtype):
    """Pixels that are not dense, images that share memory, addresses that allow no 16-byte access."""
    case = make_case(Shape(2, 9, 11, 32, 7), dtype)
    expected = grads_of(case, tensor_cores)

    def views_of(t):
        odd = torch.cat([t.flatten(), t.flatten()[:1]]).roll(1)[1:].view_as(t)
        assert odd.data_ptr() % 16 != 0
        return torch.cat([t, t], dim=-1)[..., : t.shape[-1]], t.transpose(1, 2).contiguous().transpose(1, 2), odd

    for view in views_of(case.grad):
        assert all(map(torch.equal, grads_of(case, tensor_cores, grad=view), expected))
    for view in views_of(case.x):
        assert all(map(torch.equal, grads_of(case, tensor_cores, x=view), expected))
    row = case.grad[:1, :, :1].expand_as(case.grad)
    assert all(map(torch.equal, *(grads_of(case, tensor_cores, grad=g) for g in (row, row.contiguous()))))


@pytest.mark.parametrize("magnitude", [1e-8, 1e-6, 1e-3, 1e3])
def test_gradients_of_any_magnitude(tensor_cores, magnitude):
    """float16 holds 1e-8 as zero and 1e-6 in 5 bits: what it holds is differentiated, nothing on the way is lost."""
    for dtype in DTYPES:
        case = make_case(Shape(1, 19, 37, 18, 9), dtype)
        grad = (case.grad.double() * magnitude).to(dtype)
        # Large weights bring tiny gradients back to where float16 can hold the result.
        case = replace(case, grad=grad, weight=case.weight * 64, bias=None)
        expected = oracle(case)
        for name, result in run_with_gradients(tensor_cores, case).items():
            if not expected[name].abs().max() <= torch.finfo(dtype).max / 4 or name == "y":
                continue
            # The result's own rounding is not ours, where it falls below the type's normal numbers.
            rounding = relative_error(expected[name].to(dtype), expected[name])
            assert relative_error(result, expected[name]) <= ERROR_BUDGET[dtype] + rounding, (name, dtype)


def test_regions_of_different_magnitude(tensor_cores, dtype):
    """The quiet side of the image keeps its accuracy, but for cells of 16 x 16 positions that the loud side reaches."""
    case = make_case(Shape(1, 18, 80, 20, 9, (1,)), dtype)
    factors = torch.ones(1, 1, 80, 10, dtype=torch.float64)
    factors[..., :30, :] *= 2.0**-30 if dtype == torch.bfloat16 else 2.0**-12
    factors[..., 3:5] *= 2.0**-8
    case = replace(case, grad=(case.grad.double() * factors * 2**4).to(dtype))
    expected = oracle(case)
    for name, result in run_with_gradients(tensor_cores, case).items():
        assert relative_error(result, expected[name]) <= ERROR_BUDGET[dtype], name
        if name == "grad_x":
            quiet, wanted = result[:, :, :12], expected[name][:, :, :12]
            rounding = relative_error(wanted.to(dtype), wanted)
            assert relative_error(quiet, wanted) <= ERROR_BUDGET[dtype] + rounding


def test_zero_gradients_stay_zero(tensor_cores, dtype):
    case = make_case(Shape(1, 19, 37, 18, 9), dtype)
    for result in grads_of(case, tensor_cores, grad=torch.zeros_like(case.grad)):
        assert torch.count_nonzero(result) == 0
    assert all(result.isfinite().all() for result in grads_of(case, tensor_cores))


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_overflow_is_not_hidden(tensor_cores, dtype, value):
    """So that a loss scaler sees it."""
    case = make_case(Shape(1, 19, 37, 18, 9), dtype)
    grad = case.grad.clone()
    grad[0, 5, 20, 4] = value
    x, weight, bias = grads_of(case, tensor_cores, grad=grad)
    assert not x[0, 5, 20, 4].isfinite()
    assert not weight[0, 4, 4, 4].isfinite()
    assert not bias[0, 4].isfinite()
    assert x[..., 5].isfinite().all()  # another channel


def test_same_bits_whatever_the_order_of_blocks(tensor_cores, host, dtype):
    case = make_case(Shape(2, 35, 19, 36, 7, (1, 2)), dtype)
    expected = grads_of(case, tensor_cores)
    host.set_block_order(descending=True)
    try:
        assert all(map(torch.equal, grads_of(case, tensor_cores), expected))
    finally:
        host.set_block_order(descending=False)


@pytest.mark.parametrize("mask", [(True, False, False), (False, True, False), (False, False, True)], ids=str)
def test_gradients_not_wanted_are_not_computed(tensor_cores, mask):
    case = make_case(Shape(1, 8, 9, 8, 7), torch.bfloat16)
    everything = grads_of(case, tensor_cores)
    got = backward(*case.backward_arguments, mask, tensor_cores)
    for wanted, result, expected in zip(mask, got, everything, strict=True):
        assert torch.equal(result, expected) if wanted else result is None


@pytest.mark.parametrize("gpu", ["a100", "rtx4090", "h100", "b200"])
@pytest.mark.parametrize("name", NAMED_SHAPES)
def test_plan_takes_tensor_cores_as_the_forward_does(host, name, gpu):
    shape = NAMED_SHAPES[name]
    sizes = (shape.batch, shape.height, shape.width, shape.inter)
    for dtype in (torch.float32, *DTYPES):
        problem = plan_problem(sizes, shape.factors, shape.kernel_size, dtype)
        plan = host.backward_plan(problem, device(gpu))
        expected = dtype != torch.float32 and shape.kernel_size >= 7
        for launch in (plan.gate, plan.reduced, plan.input):
            assert launch.tensor_cores is expected
            assert launch.shared_bytes <= device(gpu).shared_per_block


def test_plan_leaves_kernels_that_do_not_fit_to_cuda_cores(host, dtype):
    for kernel_size, taken in ((5, False), (7, True), (25, True), (27, False)):
        problem = plan_problem((1, 32, 32, 32), (1,), kernel_size, dtype)
        assert host.backward_plan(problem, device("h100")).gate.tensor_cores is taken
    small = host.DeviceProperties(90, 1, 40000, 40000)
    assert not host.backward_plan(plan_problem((1, 32, 32, 32), (1,), 13, dtype), small).gate.tensor_cores
    with pytest.raises(RuntimeError, match="weight: K = 13 does not fit"):
        host.backward_plan(plan_problem((1, 32, 32, 32), (1,), 13, dtype, TENSOR_CORES), small)


# 16-bit planes of gradients and inputs, rows padded by at most 14 values; a float32 scale for each 256 positions of
# float16; float32 gradients of the reduced stages' inputs; partial sums.
@pytest.mark.parametrize("name", [name for name, shape in NAMED_SHAPES.items() if shape.kernel_size >= 7])
def test_the_workspace_is_bounded(host, name, dtype):
    shape = NAMED_SHAPES[name]
    plan = host.backward_plan(
        plan_problem((shape.batch, shape.height, shape.width, shape.inter), shape.factors, shape.kernel_size, dtype),
        device("h200"),
    )
    sizes = stage_sizes(shape.height, shape.width, shape.factors)
    planes = shape.batch * shape.inter
    padded = planes * sum(h * (w + 14) for h, w in sizes)
    scales = planes * sum(-(-h // 16) * -(-w // 16) for h, w in sizes) * (dtype == torch.float16)
    reduced = planes * sum(h * w for (h, w), f in zip(sizes, shape.factors, strict=True) if f != 1)
    partials = plan.partitions * len(sizes) * (shape.kernel_size**2 + 1) * shape.inter
    assert plan.workspace_floats <= padded + scales + reduced + partials + 32 * (4 * len(sizes) + 1)
