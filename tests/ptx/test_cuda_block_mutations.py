"""What is wrong in any launch of the fused block is noticed, by an error or in what it leaves behind."""

import itertools
from functools import cache

import pytest
import test_block_kernels
import torch
from cuda_launches import Executor, block
from host_build import module
from mutations import (
    AFTER_ANOTHER,
    MUTATIONS,
    WAITS,
    Subject,
    executed_instructions,
    is_noticed,
    read_always,
    read_nothing,
    unnoticed,
)

# The launches, but for a pyramid that reads pixels: it is the operator's forward.
LAUNCHES = {"in-projection": 0, "shift": 1, "out-projection": 3, "planar in-projection": 0, "planar pyramid": 2}
PRODUCTS = {*WAITS, "operands of a product swapped", "matrices 2 bytes off"}
NOT_IN = {  # kinds of instructions that a kernel does not have
    "in-projection": {AFTER_ANOTHER, "a warp's barrier removed", "another lane shuffled"},
    "shift": {*PRODUCTS, "a warp's barrier removed", "a store's tail negated"},
    "out-projection": {"a store's tail negated", "a warp's barrier removed", "another lane shuffled"},
    "planar in-projection": {AFTER_ANOTHER, "a warp's barrier removed", "another lane shuffled"},
    "planar pyramid": set(),
}
KINDS = [(launch, kind) for launch in LAUNCHES for kind in MUTATIONS if kind not in NOT_IN[launch]]
# The wait behind a product's last step waits for groups that are empty: every step's copies have been waited for.
WITHOUT_EFFECT = {(launch, kind): 1 for launch in LAUNCHES if launch.endswith("projection") for kind in WAITS}
# By tile of both projections, a width and an inner width that get it. Six steps of 64 channels of the smallest tile end
# where its results go, so that the barrier between is needed.
SIZES = {(64, 64): (328, 328), (128, 128): (328, 328), (128, 160): (320, 320)}


@cache
def subject(
    launch: str, size: tuple[int, int] = (120, 72), tile: tuple[int, int] | None = None, height: int = 10
) -> Subject:
    """Two images (planes: one, of `height` rows), tails in pixels, in channels and in outputs, a residual.

    `tile`: of both projections.
    """
    kernel_size, shape = 3, (2, 9, 11)
    if launch.startswith("planar"):
        kernel_size, shape = 7, (1, height, 14)
        if tile is None:  # six steps of channels here too
            size = (328, size[1])
        elif tile == (128, 128):  # after six, planes are written where no warp can still read; after seven they are not
            size = (424, size[1])
    layers = test_block_kernels.make_block(*size, torch.float16, kernel_size)
    x = test_block_kernels.make_x(layers, *shape, torch.float16)
    residual, gpu = x.flip(2), None
    if tile:
        gpu = test_block_kernels.gpu_that_gets((tile, tile), layers, x, module())
        assert gpu, "no GPU's plan has these tiles"

    @torch.no_grad()
    def is_right(executor: Executor) -> bool:
        executor.gpu = gpu
        run = block(layers.arguments(x, residual), executor)
        try:
            test_block_kernels.assert_launches_match(layers, x, residual, run)
            test_block_kernels.assert_block_matches(layers, x, residual, run)
        except AssertionError:
            return False
        return True

    return Subject(is_right, LAUNCHES[launch])


@pytest.mark.parametrize(("launch", "kind"), KINDS)
def test_noticed(launch, kind):
    found = unnoticed(kind, subject(launch))
    assert len(found) == WITHOUT_EFFECT.get((launch, kind), 0), found


def test_every_copy_of_a_window_reads_what_exists():
    """Each copies rows that exist, some of them also rows that do not. 18 rows of an image take two tiles."""
    pyramid = subject("planar pyramid", height=18)
    instructions, executed = executed_instructions(pyramid)
    copies = [at for at in executed if instructions[at].opcode.endswith(".zfill")]
    assert copies
    assert all(is_noticed(pyramid, at, read_nothing) for at in copies)
    assert any(is_noticed(pyramid, at, read_always) for at in copies)


@pytest.mark.ptx_full
@pytest.mark.parametrize(("launch", "kind"), KINDS)
def test_every_instruction_noticed(launch, kind):
    found = unnoticed(kind, subject(launch), all_of_them=True)
    assert len(found) == WITHOUT_EFFECT.get((launch, kind), 0), found


@pytest.mark.ptx_full
@pytest.mark.parametrize(
    ("tile", "launch", "kind"),
    [(tile, *pair) for tile, pair in itertools.product(SIZES, KINDS) if pair[0] not in ("shift", "planar pyramid")],
    ids=str,
)
def test_noticed_in_every_tile(tile, launch, kind):
    found = unnoticed(kind, subject(launch, SIZES[tile], tile))
    assert len(found) == WITHOUT_EFFECT.get((launch, kind), 0), found
