"""What is wrong in the forward is noticed: one instruction changed at a time, as a mistake would change it."""

from functools import cache

import pytest
import test_tensor_cores
import torch
from cuda_launches import Executor, forward
from mutations import AFTER_ANOTHER, MUTATIONS, WAITS, Subject, unnoticed

from deltaconv_kernels.reference import pyramid_forward
from deltaconv_kernels.testing import ERROR_BUDGET, Shape, make_case, relative_error

CORES, TENSOR_CORES = "cuda_cores", "tensor_cores"
NOT_IN = {  # kinds of instructions that a kernel does not have
    CORES: {AFTER_ANOTHER, "a warp's barrier removed", "operands of a product swapped", "matrices 2 bytes off"},
    TENSOR_CORES: {AFTER_ANOTHER, *WAITS},
}


@cache
def subject(path: str, inter: int, tile=None, half: bool = False) -> Subject:
    """float16 on tensor cores, float32 on CUDA cores unless `half`."""
    kernel_size, size, threads = tile or (7, None, None)
    dtype = torch.float16 if half or path == TENSOR_CORES else torch.float32
    height, width = (35, 38) if tile else (19, 21)
    case = make_case(Shape(1, height, width, inter, kernel_size), dtype, residual=True)
    expected, cta = pyramid_forward(*case.to(torch.float64).arguments), (*size, threads) if size else None

    def is_right(executor: Executor) -> bool:
        executor.path, executor.cta = path, cta
        return relative_error(forward(case, executor), expected) <= ERROR_BUDGET[dtype]

    return Subject(is_right)


# 16 channel pairs allow 16-byte copies, which CUDA cores make asynchronously; 17 leave a tail in C.
@pytest.mark.parametrize(
    ("path", "inter", "kind"),
    [
        *((CORES, 32, kind) for kind in MUTATIONS if kind not in NOT_IN[CORES]),
        *((TENSOR_CORES, 34, kind) for kind in MUTATIONS if kind not in NOT_IN[TENSOR_CORES]),
    ],
)
def test_noticed(path, inter, kind):
    assert unnoticed(kind, subject(path, inter)) == []


def has_needless_warp_barrier(tile) -> bool:
    """In CTAs of 512 threads u's planes are left behind a barrier; from K = 11 on the results fit where they were."""
    kernel_size, _, threads = tile
    return threads == 512 and kernel_size >= 11


@pytest.mark.ptx_full
@pytest.mark.parametrize(
    ("tile", "kind"),
    [
        (tile, kind)
        for tile in test_tensor_cores.TILES
        for kind in MUTATIONS
        if kind not in NOT_IN[TENSOR_CORES]
        and not (kind == "a warp's barrier removed" and has_needless_warp_barrier(tile))
    ],
    ids=str,
)
def test_noticed_in_every_tile(tile, kind):
    assert unnoticed(kind, subject(TENSOR_CORES, 34, tile)) == []


@pytest.mark.ptx_full
@pytest.mark.parametrize("kind", [kind for kind in MUTATIONS if kind not in NOT_IN[TENSOR_CORES]])
def test_every_instruction_noticed_on_tensor_cores(kind):
    assert unnoticed(kind, subject(TENSOR_CORES, 34), all_of_them=True) == []


# 16-bit values are converted on their way to shared memory, so that no copy is asynchronous.
@pytest.mark.ptx_full
@pytest.mark.parametrize(
    ("inter", "half", "kind"),
    [
        *((32, False, kind) for kind in MUTATIONS if kind not in NOT_IN[CORES]),
        *((34, True, kind) for kind in MUTATIONS if kind not in NOT_IN[CORES] | WAITS),
    ],
)
def test_every_instruction_noticed_on_cuda_cores(inter, half, kind):
    assert unnoticed(kind, subject(CORES, inter, half=half), all_of_them=True) == []
