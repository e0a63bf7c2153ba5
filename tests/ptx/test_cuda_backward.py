"""The backward kernels' PTX, executed: every gradient against float64, whatever the order of blocks and warps."""

from dataclasses import replace

import pytest
import test_cuda_cores
import test_tensor_cores_backward
import test_weight_gradient
import torch
from matching import HALVES, assert_backward_matches, in_turn, views_of

from deltaconv_kernels.testing import Shape, make_case

CORES, TENSOR_CORES = "cuda_cores", "tensor_cores"


# Tails in C, H and W; pooling that divides and not.
@pytest.mark.parametrize("path", [CORES, TENSOR_CORES])
@pytest.mark.parametrize("shape", [Shape(1, 9, 21, 18, 7), Shape(1, 8, 9, 20, 9, (2, 4))], ids=str)
def test_gradients(path, shape):
    gate = "scaled" if shape.kernel_size == 7 else "sigmoid"
    assert_backward_matches(make_case(shape, torch.bfloat16, gate=gate), path=path)


@pytest.mark.ptx_full
@pytest.mark.parametrize(("architecture", "dtype", "kernel_size"), in_turn(range(1, 32, 2)))
def test_kernel_sizes_on_cuda_cores(architecture, dtype, kernel_size):
    gate = "scaled" if kernel_size % 4 == 1 else "sigmoid"
    case = make_case(Shape(1, 9, 13, 34, kernel_size), dtype, gate=gate)
    assert_backward_matches(case, path=CORES, compute_capability=architecture)


@pytest.mark.ptx_full
@pytest.mark.parametrize(("architecture", "dtype", "shape"), in_turn(test_cuda_cores.SHAPES), ids=str)
def test_shapes_on_cuda_cores(architecture, dtype, shape):
    assert_backward_matches(make_case(shape, dtype), path=CORES, compute_capability=architecture)


@pytest.mark.ptx_full
@pytest.mark.parametrize(("architecture", "dtype", "kernel_size"), in_turn(range(7, 26, 2), HALVES))
def test_kernel_sizes_on_tensor_cores(architecture, dtype, kernel_size):
    gate = "scaled" if kernel_size % 4 == 1 else "sigmoid"
    case = make_case(Shape(1, 9, 21, 18, kernel_size), dtype, gate=gate, bias=gate == "scaled")
    assert_backward_matches(case, path=TENSOR_CORES, compute_capability=architecture)


@pytest.mark.ptx_full
@pytest.mark.parametrize(
    ("architecture", "dtype", "shape"), in_turn(test_tensor_cores_backward.SHAPES, HALVES), ids=str
)
def test_shapes_on_tensor_cores(architecture, dtype, shape):
    assert_backward_matches(make_case(shape, dtype), path=TENSOR_CORES, compute_capability=architecture)


@pytest.mark.ptx_full
@pytest.mark.parametrize(("architecture", "dtype", "tile"), in_turn(test_tensor_cores_backward.TILES, HALVES), ids=str)
def test_every_tile(architecture, dtype, tile):
    kernel_size, size, part = tile
    case = make_case(Shape(1, 40, 60, 2, kernel_size), dtype)
    cta = test_tensor_cores_backward.cta_of(size, part)
    assert_backward_matches(case, path=TENSOR_CORES, cta=cta, compute_capability=architecture)


@pytest.mark.ptx_full
@pytest.mark.parametrize(
    ("architecture", "dtype", "tiles"), in_turn(test_tensor_cores_backward.TILES_OF_STAGES, HALVES), ids=str
)
def test_reduced_stages_have_tiles_of_their_own(architecture, dtype, tiles):
    kernel_size, full, reduced = tiles
    case = make_case(Shape(1, 66, 70, 2, kernel_size), dtype)
    cta = test_tensor_cores_backward.cta_of(full, "gate")
    options = {"cta": cta, "reduced_tile": reduced, "compute_capability": architecture}
    assert_backward_matches(case, path=TENSOR_CORES, **options)


@pytest.mark.ptx_full
@pytest.mark.parametrize(("architecture", "dtype", "tile"), in_turn(test_weight_gradient.TILES, HALVES), ids=str)
def test_every_tile_of_the_weight_gradient(architecture, dtype, tile):
    kernel_size, columns = tile
    case = make_case(Shape(2, 35, 37, 2, kernel_size, (1,)), dtype)
    options = {"path": TENSOR_CORES, "weight_columns": columns, "compute_capability": architecture}
    assert_backward_matches(case, (False, True, True), **options)


@pytest.mark.ptx_full
@pytest.mark.parametrize("path", [CORES, TENSOR_CORES])
def test_views(path):
    case = make_case(Shape(2, 9, 11, 32, 7), torch.float16)
    expected = assert_backward_matches(case, path=path)
    views = [replace(case, x=x) for x in views_of(case.x)] + [replace(case, grad=grad) for grad in views_of(case.grad)]
    for view in views:
        for name, result in assert_backward_matches(view, path=path).items():
            assert torch.equal(result, expected[name]), name


@pytest.mark.ptx_full
@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)], ids=str)
@pytest.mark.parametrize("path", [CORES, TENSOR_CORES])
def test_gradients_not_wanted(path, wanted):
    assert_backward_matches(make_case(Shape(1, 8, 9, 8, 7), torch.bfloat16), wanted, path=path)
