"""The launch plan: pure functions, tested on any machine."""

import re

import pytest
import torch
from host_build import device, plan_problem

from deltaconv_kernels.cuda_plan import GPUS
from deltaconv_kernels.reference import stage_sizes
from deltaconv_kernels.testing import NAMED_SHAPES, Shape

DTYPES = [torch.float32, torch.float16]
MAX_PARTITIONS = 64


def problem_of(shape: Shape, dtype=torch.float32, path=None):
    x_shape = (shape.batch, shape.height, shape.width, shape.inter)
    return plan_problem(x_shape, shape.factors, shape.kernel_size, dtype, path)


def sizes_of(shape: Shape) -> list[tuple[int, int]]:
    return stage_sizes(shape.height, shape.width, shape.factors)


def assert_covers(tilings, sizes):
    for tiling, (h, w) in zip(tilings, sizes, strict=True):
        assert (tiling.count_rows - 1) * tiling.step_rows + tiling.rows >= h
        assert (tiling.count_cols - 1) * tiling.step_cols + tiling.cols >= w


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float16"])
@pytest.mark.parametrize("shape", NAMED_SHAPES.values(), ids=NAMED_SHAPES)
def test_named_shapes_fit_every_gpu(host, shape, dtype, gpu):
    (launch,) = host.forward_plan(problem_of(shape, dtype), device(gpu))
    backward = host.backward_plan(problem_of(shape, dtype), device(gpu))
    launches = [launch, backward.gate, backward.reduced, backward.input]
    for one in launches:
        assert 0 < one.shared_bytes <= GPUS[gpu].shared_per_block
        assert 0 < one.blocks < 2**31
        assert one.threads in (32, 64, 128, 256, 512)
    assert 0 < backward.weight_shared_bytes <= GPUS[gpu].shared_per_block
    assert backward.weight_threads <= 256
    assert_covers(launch.tilings, sizes_of(shape))
    assert_covers(backward.gate.tilings, sizes_of(shape))
    assert_covers(backward.input.tilings, [(shape.height, shape.width)])


@pytest.mark.parametrize("gpu", GPUS)
def test_every_kernel_size_fits_every_gpu(host, gpu):
    for kernel_size in range(1, 32, 2):
        problem = problem_of(Shape(1, 64, 64, 64, kernel_size), path="cuda_cores")
        (launch,) = host.forward_plan(problem, device(gpu))
        assert launch.shared_bytes <= GPUS[gpu].shared_per_block
        assert host.backward_plan(problem, device(gpu)).weight_shared_bytes <= GPUS[gpu].shared_per_block


def test_small_kernels_and_float32_take_cuda_cores(host):
    gpu = device("h200")
    for kernel_size in (3, 5, 7, 13):
        shape = Shape(2, 64, 64, 320, kernel_size)
        (single,) = host.forward_plan(problem_of(shape, torch.float32), gpu)
        (half,) = host.forward_plan(problem_of(shape, torch.float16), gpu)
        assert not single.tensor_cores
        assert half.tensor_cores == (kernel_size >= 7)


# 4 bytes for each value of: the gradients of every stage's convolution, those of the reduced stages' inputs, and at
# most 64 partial sums of the weight's gradients. Each part is rounded up to 128 bytes.
@pytest.mark.parametrize("shape", NAMED_SHAPES.values(), ids=NAMED_SHAPES)
def test_the_workspace_is_bounded(host, shape):
    plan = host.backward_plan(problem_of(shape), device("h200"))
    pixels = shape.batch * sum(
        h * w * (1 if f == 1 else 2) for (h, w), f in zip(sizes_of(shape), shape.factors, strict=True)
    )
    taps = len(shape.factors) * (shape.kernel_size**2 + 1)
    assert plan.partitions <= MAX_PARTITIONS
    assert plan.workspace_floats <= shape.inter * (pixels + plan.partitions * taps) + 32 * (2 * len(shape.factors) + 1)


@pytest.mark.parametrize("shape", [*NAMED_SHAPES.values(), Shape(1, 37, 90, 64, 31, (1, 3))], ids=str)
def test_partial_sums_depend_on_the_shape_alone(host, shape):
    """So that a weight gradient's bits repeat from one GPU model to the next with as much shared memory."""
    partitions = {host.backward_plan(problem_of(shape), device(gpu)).partitions for gpu in ("h100", "h200", "b200")}
    assert len(partitions) == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float16"])
def test_large_images_are_planned_in_64_bits(host, dtype):
    huge = plan_problem((1, 2**16, 2**16, 64), (1, 2), 9, dtype)
    (launch,) = host.forward_plan(huge, device("h200"))
    assert launch.tensor_cores == (dtype != torch.float32)
    assert launch.blocks > 2**22
    assert_covers(launch.tilings, [(2**16, 2**16), (2**15, 2**15)])
    backward = host.backward_plan(huge, device("h200"))
    assert backward.workspace_floats * 4 >= 2**32 * 64 * torch.finfo(dtype).bits // 8
    with pytest.raises(RuntimeError, match="thread blocks, more than a CUDA grid holds"):
        host.forward_plan(plan_problem((1, 2**22, 2**22, 64), (1, 2), 9, dtype), device("h200"))


@pytest.mark.parametrize("path", ["cuda_cores", "tensor_cores"])
@pytest.mark.parametrize(
    "shape",
    [
        Shape(3, 33, 130, 66, 7, (1, 2)),
        Shape(1, 257, 100, 2, 9, (3, 1, 2, 7)),
        Shape(2, 1, 1, 32, 7, (1,)),
        Shape(1, 3, 2**21, 2, 7, (1, 3)),  # more tiles in a row than a launch has cells
    ],
    ids=str,
)
def test_every_tile_has_one_block(host, shape, path):
    (launch,) = host.forward_plan(problem_of(shape, torch.float16, path), device("h200"))
    located = host.located_tiles(launch)
    assert len({tuple(tile) for *tile, _ in located}) == len(located)
    tiles = sum(tiling.count_rows * tiling.count_cols for tiling in launch.tilings)
    assert len(located) == tiles * shape.batch * -(-shape.inter // 32)
    assert [block for *_, block in located] == sorted({block for *_, block in located})
    for stage, image, row, col, channel, _ in located:
        tiling = launch.tilings[stage]
        assert 0 <= row < tiling.count_rows
        assert 0 <= col < tiling.count_cols
        assert 0 <= image < shape.batch
        assert channel in range(0, shape.inter // 2, 16)


def test_the_most_reduced_stage_is_started_first(host):
    launches = host.forward_plan(problem_of(Shape(1, 64, 64, 64, 9, (1, 3, 2, 3))), device("h200"))
    order = [int(index) for index in re.findall(r"stage (\d)", host.explain(launches))]
    assert order == [1, 3, 2, 0]


def test_reduced_stages_have_smaller_tiles_where_a_launch_through_the_gate_ends_sooner(host):
    planned = plan_problem((2, 64, 64, 320), (1, 2), 13, torch.float16)  # sdxl-64-k13
    launch = host.backward_plan(planned, device("h200")).gate
    assert [(tiling.rows, tiling.cols) for tiling in launch.tilings] == [(32, 32), (32, 16)]
    same = plan_problem((2, 64, 64, 320), (1, 2), 13, torch.float16, cta=(32, 32, 512))
    assert launch.estimated_cycles < 0.9 * host.backward_plan(same, device("h200")).gate.estimated_cycles


def test_a_kernel_that_fits_nowhere_is_named(host):
    tiny = host.DeviceProperties(90, 1, 4096, 4096)
    with pytest.raises(RuntimeError, match="weight: K = 13 does not fit into the 4096 bytes"):
        host.forward_plan(problem_of(Shape(1, 8, 8, 8, 13)), tiny)


def test_the_plan_explains_itself(host):
    problem = problem_of(NAMED_SHAPES["sdxl-64-k9"])
    text = host.explain(host.forward_plan(problem, device("h200")))
    assert "CUDA cores: " in text
    assert "stage 1, factor 2: 32 x 32 in" in text
    assert "workspace: " in host.explain(host.backward_plan(problem, device("h200")))
