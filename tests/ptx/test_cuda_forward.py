"""The forward kernels' PTX, executed: results against the float64 oracle."""

import pytest
import torch
from cuda_launches import Executor, forward

from deltaconv_kernels.reference import pyramid_forward
from deltaconv_kernels.testing import ERROR_BUDGET, Shape, make_case, relative_error


def assert_forward_matches(case, executor):
    expected = pyramid_forward(*case.to(torch.float64).arguments)
    error = relative_error(forward(case, executor), expected)
    assert error <= ERROR_BUDGET[case.x.dtype], f"relative error {error:.2e}"


@pytest.mark.parametrize("shape", [Shape(1, 9, 21, 18, 7), Shape(2, 13, 5, 18, 3, (2, 4))], ids=str)
def test_cuda_cores(shape):
    assert_forward_matches(make_case(shape, residual=True), Executor(road="cuda_cores"))
