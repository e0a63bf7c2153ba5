"""The weight gradient's kernel of tensor cores, run on the CPU: every tile, partitions of several tiles."""

import itertools

import pytest
import torch
from host_build import HostPyramid, backward, plan_problem

from deltaconv_kernels.testing import ERROR_BUDGET, Shape, make_case, oracle, relative_error

WEIGHT_AND_BIAS = (False, True, True)


def assert_gradients_match(case, pyramid):
    _, weight, bias = backward(*case.backward_arguments, WEIGHT_AND_BIAS, pyramid)
    expected = oracle(case)
    for name, result in (("grad_weight", weight), ("grad_bias", bias)):
        assert relative_error(result, expected[name]) <= ERROR_BUDGET[case.x.dtype], name


# K with both widths of tile (layout/weight_band.h). Images of three half tiles: some tiles are of two of them.
TILES = [*itertools.product((7, 9, 13, 17, 19, 25), (16, 32))]


@pytest.mark.parametrize(("kernel_size", "columns"), TILES, ids=str)
def test_every_tile(host, kernel_size, columns):
    dtype = torch.float16 if kernel_size % 4 == 1 else torch.bfloat16
    pyramid = HostPyramid(path="tensor_cores", weight_columns=columns)
    case = make_case(Shape(2, 35, 37, 2, kernel_size, (1,)), dtype)
    problem = plan_problem(case.x.shape, case.factors, kernel_size, dtype, "tensor_cores", columns)
    (tiling,) = host.backward_plan(problem, pyramid.gpu).weight_tilings
    assert (tiling.rows, tiling.cols) == (32, columns)
    assert (tiling.count_rows, tiling.count_cols) == (3, -(-37 // columns))
    assert_gradients_match(case, pyramid)


def test_partitions_of_several_tiles(host):
    """Both buffers of a warp are filled again and again."""
    case = make_case(Shape(1, 190, 400, 2, 7, (1,)), torch.float16)
    pyramid = HostPyramid(path="tensor_cores")
    problem = plan_problem(case.x.shape, case.factors, 7, torch.float16, "tensor_cores")
    plan = host.backward_plan(problem, pyramid.gpu)
    (tiling,) = plan.weight_tilings
    assert tiling.count_rows * tiling.count_cols > 2 * plan.partitions
    assert_gradients_match(case, pyramid)


def test_images_share_tiles():
    """Images of fewer rows than half a tile, an odd number of them."""
    case = make_case(Shape(3, 13, 18, 6, 9, (1, 2)), torch.float16)
    assert_gradients_match(case, HostPyramid(path="tensor_cores"))
