"""The forward kernels' PTX, executed: results against float64, whatever the order of blocks and warps."""

from dataclasses import replace

import pytest
import test_cuda_cores
import test_tensor_cores
import torch
from host_build import module
from matching import HALVES, assert_forward_matches, in_turn, views_of

from deltaconv_kernels.testing import Shape, make_case

CORES, TENSOR_CORES = "cuda_cores", "tensor_cores"


@pytest.mark.parametrize("shape", [Shape(1, 9, 21, 18, 7), Shape(2, 13, 5, 18, 3, (2, 4))], ids=str)
def test_on_cuda_cores(shape):
    assert_forward_matches(make_case(shape, residual=True), path=CORES)


# Tails in C, H and W; pooling that divides and not; a tile of each shape, some of 512 threads.
@pytest.mark.parametrize("gate", ["scaled", "sigmoid"])
@pytest.mark.parametrize("shape", [Shape(1, 9, 21, 18, 7), Shape(1, 33, 35, 34, 11, (3, 1))], ids=str)
def test_on_tensor_cores(shape, gate):
    assert_forward_matches(make_case(shape, torch.float16, gate=gate, residual=True), path=TENSOR_CORES)


def test_views():
    case = make_case(Shape(1, 9, 11, 32, 7), torch.float16, residual=True)
    expected = assert_forward_matches(case, path=TENSOR_CORES)
    for view in views_of(case.x):
        assert torch.equal(assert_forward_matches(replace(case, x=view), path=TENSOR_CORES), expected)


@pytest.mark.ptx_full
@pytest.mark.parametrize(("architecture", "dtype", "kernel_size"), in_turn(range(1, 32, 2)))
def test_kernel_sizes_on_cuda_cores(architecture, dtype, kernel_size):
    gate = "scaled" if kernel_size % 4 == 1 else "sigmoid"
    case = make_case(Shape(1, 9, 13, 34, kernel_size), dtype, gate=gate, residual=True)
    assert_forward_matches(case, path=CORES, compute_capability=architecture)


@pytest.mark.ptx_full
@pytest.mark.parametrize(("architecture", "dtype", "shape"), in_turn(test_cuda_cores.SHAPES), ids=str)
def test_shapes_on_cuda_cores(architecture, dtype, shape):
    assert_forward_matches(make_case(shape, dtype), path=CORES, compute_capability=architecture)


@pytest.mark.ptx_full
@pytest.mark.parametrize(("architecture", "dtype", "multiprocessors"), in_turn([1, 8, 10000] * 3))
def test_block_sizes_on_cuda_cores(architecture, dtype, multiprocessors):
    gpu = module().DeviceProperties(90, multiprocessors, 232448, 233472)
    case = make_case(Shape(2, 33, 37, 32, 3, (1, 2)), dtype)
    assert_forward_matches(case, path=CORES, gpu=gpu, compute_capability=architecture)


@pytest.mark.ptx_full
@pytest.mark.parametrize(("architecture", "dtype", "tile"), in_turn(list(test_tensor_cores.TILES) * 2, HALVES), ids=str)
def test_every_tile_of_tensor_cores(architecture, dtype, tile):
    kernel_size, size, threads = tile
    case = make_case(Shape(1, 35, 38, 34, kernel_size), dtype, residual=True)
    assert_forward_matches(case, path=TENSOR_CORES, cta=(*size, threads), compute_capability=architecture)


@pytest.mark.ptx_full
@pytest.mark.parametrize(("architecture", "dtype", "shape"), in_turn(test_tensor_cores.SHAPES, HALVES), ids=str)
def test_shapes_on_tensor_cores(architecture, dtype, shape):
    assert_forward_matches(make_case(shape, dtype), path=TENSOR_CORES, compute_capability=architecture)


@pytest.mark.ptx_full
@pytest.mark.parametrize("gate", ["scaled", "sigmoid"])
@pytest.mark.parametrize(("bias", "residual"), [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize(("path", "dtype"), [(CORES, torch.float32), *((TENSOR_CORES, half) for half in HALVES)])
def test_optional_arguments(path, dtype, gate, bias, residual):
    case = make_case(Shape(1, 19, 23, 16, 7, (1, 2)), dtype, gate=gate, bias=bias, residual=residual)
    assert_forward_matches(case, path=path)
