"""Assertions on what the executor computes."""

from __future__ import annotations

import itertools

import torch
from cuda_launches import Executor, backward, forward

from deltaconv_kernels.reference import pyramid_forward
from deltaconv_kernels.testing import ERROR_BUDGET, Case, oracle, relative_error

ARCHITECTURES = 80, 90, 121
DTYPES = torch.float32, torch.float16, torch.bfloat16
HALVES = torch.float16, torch.bfloat16


def assert_forward_matches(case: Case, **options) -> torch.Tensor:
    """Within the budget of float64, and the same bits when blocks and warps run in another order."""
    result = forward(case, Executor(**options))
    expected = pyramid_forward(*case.to(torch.float64).arguments)
    error = relative_error(result, expected)
    assert error <= ERROR_BUDGET[case.x.dtype], f"relative error {error:.2e}"
    assert torch.equal(forward(case, Executor(order=1, **options)), result)
    return result


def assert_backward_matches(case: Case, wanted=(True, True, True), **options) -> dict[str, torch.Tensor]:
    """The same for every gradient that is wanted."""
    results = backward(case, Executor(**options), wanted)
    again = backward(case, Executor(order=1, **options), wanted)
    expected = oracle(case)
    for name, result in results.items():
        error = relative_error(result, expected[name])
        assert error <= ERROR_BUDGET[case.x.dtype], f"{name}: relative error {error:.2e}"
        assert torch.equal(result, again[name]), name
    return results


def in_turn(problems, dtypes=DTYPES) -> list[tuple]:
    """(architecture, dtype, problem): each problem on the next pair of the two, so that all pairs occur."""
    pairs = itertools.cycle(itertools.product(ARCHITECTURES, dtypes))
    return [(*pair, problem) for problem, pair in zip(problems, pairs, strict=False)]


def views_of(t: torch.Tensor) -> list[torch.Tensor]:
    """The same values: pixels that are not dense, transposed images, an address that allows no 16-byte access."""
    odd = torch.cat([t.flatten(), t.flatten()[:1]]).roll(1)[1:].view_as(t)
    assert odd.data_ptr() % 16 != 0
    return [torch.cat([t, t], dim=-1)[..., : t.shape[-1]], t.transpose(1, 2).contiguous().transpose(1, 2), odd]
