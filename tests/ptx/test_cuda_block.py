"""The whole block's four launches, executed: each against float64, whatever the order of blocks and warps."""

import itertools

import pytest
import test_block_kernels
import torch
from cuda_launches import Executor, block
from host_build import module
from matching import HALVES, in_turn


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def assert_block_matches(layers, x, residual, **options):
    arguments = layers.arguments(x, residual)
    run = block(arguments, Executor(**options))
    test_block_kernels.assert_launches_match(layers, x, residual, run)
    test_block_kernels.assert_block_matches(layers, x, residual, run)
    again = block(arguments, Executor(order=1, **options))
    for name, value in vars(run).items():
        assert torch.equal(value, getattr(again, name)), name


def assert_size_matches(size, dtype, kernel_size=3, **options):
    batch, height, width, dim, inter, factors = size
    layers = test_block_kernels.make_block(dim, inter, dtype, kernel_size, factors)
    x = test_block_kernels.make_x(layers, batch, height, width, dtype)
    assert_block_matches(layers, x, x.flip(2), **options)


@pytest.mark.parametrize("size", [(3, 5, 7, 24, 16, (1, 2)), (1, 13, 17, 64, 32, (2, 1))], ids=str)
def test_sizes(size):
    assert_size_matches(size, torch.float16)


PLANAR_SIZES = [((1, 12, 20, 24, 40, (1, 2)), 7), ((1, 17, 33, 40, 24, (1, 1)), 13)]


@pytest.mark.parametrize(("size", "kernel_size"), PLANAR_SIZES, ids=str)
def test_channel_planes(size, kernel_size):
    assert_size_matches(size, torch.bfloat16, kernel_size)


def test_launches_but_the_first_follow():
    """From compute capability 9.0 on they may begin while the launch before them ends, and wait for it themselves."""
    layers = test_block_kernels.make_block(24, 16, torch.float16, factors=(1, 2))
    executor = Executor()
    block(layers.arguments(test_block_kernels.make_x(layers, 1, 5, 7, torch.float16), None), executor)
    assert [launch.follows for launch in executor.executed] == [False, True, True, True]


@pytest.mark.ptx_full
@pytest.mark.parametrize(("architecture", "dtype", "size"), in_turn(test_block_kernels.SIZES * 2, HALVES), ids=str)
def test_every_size(architecture, dtype, size):
    assert_size_matches(size, dtype, compute_capability=architecture)


@pytest.mark.ptx_full
@pytest.mark.parametrize(
    ("architecture", "dtype", "size"), in_turn(test_block_kernels.PLANAR_SIZES * 2, HALVES), ids=str
)
def test_every_channel_plane(architecture, dtype, size):
    *size, kernel_size = size
    assert_size_matches(size, dtype, kernel_size, compute_capability=architecture)


TILES = [*itertools.product(test_block_kernels.TILES, test_block_kernels.TILES)]


@pytest.mark.ptx_full
@pytest.mark.parametrize(("architecture", "dtype", "sizes"), in_turn([(328, 168), (168, 328), (264, 264)] * 2, HALVES))
def test_every_tile(architecture, dtype, sizes):
    dim, inter = sizes
    layers = test_block_kernels.make_block(dim, inter, dtype, biases=dim != 264)
    x = test_block_kernels.make_x(layers, 2, 11, 13, dtype)
    gpus = [test_block_kernels.gpu_that_gets(tiles, layers, x, module()) for tiles in TILES]
    assert any(gpus)
    for gpu in filter(None, gpus):
        assert_block_matches(layers, x, x.flip(1), gpu=gpu, compute_capability=architecture)


@pytest.mark.ptx_full
@pytest.mark.parametrize("gate", ["scaled", "sigmoid"])
@pytest.mark.parametrize(("biases", "residual"), [(False, False), (False, True), (True, False)])
def test_optional_arguments(biases, residual, gate):
    layers = test_block_kernels.make_block(48, 32, torch.bfloat16, kernel_size=7, biases=biases)
    layers.gate = gate
    x = test_block_kernels.make_x(layers, 2, 9, 11, torch.bfloat16)
    assert_block_matches(layers, x, x.flip(1) if residual else None)
