"""The blocks that tests/ptx/count.py executes stand for the whole launches."""

import pytest
import torch
from count import Weighted, count_block, count_operator, cycles_of, fused_block, zeros
from cuda_launches import Executor, block, forward
from host_build import device

from deltaconv_kernels.testing import NAMED_SHAPES, Shape


def assert_stand_for(sampled: list[Weighted], executor: Executor):
    """Within 2 %: sectors depend on where an image's rows begin."""
    assert [launch.blocks for launch in sampled] == [executed.blocks for executed in executor.executed]
    for launch, executed in zip(sampled, executor.executed, strict=True):
        assert launch.cycles == pytest.approx(cycles_of(executed.counts), rel=0.02), launch.kernel


@pytest.mark.parametrize("shape", [NAMED_SHAPES["sd15-8-k3"], Shape(1, 33, 35, 34, 3)], ids=str)
def test_sampled_blocks_of_the_forward(shape):
    """In the second of 90 blocks 22 have no tile."""
    executor = Executor(gpu=device("h200"))
    forward(zeros(shape, torch.float32), executor)
    assert_stand_for(count_operator(shape, torch.float32, gradients=False), executor)


def test_sampled_blocks_of_the_fused_block():
    """Tails in pixels, channels and outputs; several tiles of both."""
    shape, executor = Shape(2, 13, 15, 72, 3), Executor(gpu=device("h200"))
    block(fused_block(shape, torch.float16), executor)
    assert_stand_for(count_block(shape, torch.float16), executor)
