"""Pixels whose offsets need more than 31 bits, in memory of which almost nothing is touched."""

import pytest
import torch
from host_build import HostPyramid

from deltaconv_kernels.testing import Shape, make_case

ROW_STRIDE = 2**27  # elements: rows from the 16th on lie beyond 2^31


def spread(tensor: torch.Tensor) -> torch.Tensor:
    """A copy whose rows lie ROW_STRIDE elements apart."""
    rows, channels = tensor.shape[1], tensor.shape[3]
    assert rows * ROW_STRIDE > 2**31
    memory = torch.empty(rows * ROW_STRIDE, dtype=tensor.dtype)  # pages that are never touched take no memory
    view = memory.as_strided(tensor.shape, (0, ROW_STRIDE, channels, 1))
    return view.copy_(tensor)


@pytest.mark.parametrize(("path", "kernel_size"), [("cuda_cores", 3), ("tensor_cores", 7)])
def test_rows_beyond_31_bits(host, path, kernel_size):
    case = make_case(Shape(1, 18, 9, 32, kernel_size, (1, 2)), torch.bfloat16, residual=True)
    pyramid = HostPyramid(path=path)
    x, *others, residual = case.arguments

    def run(x, residual, grad):
        x = x.detach().requires_grad_()
        y = pyramid(x, *others, residual)
        return y, torch.autograd.grad(y, x, grad)[0]

    expected = run(x, residual, case.grad)
    got = run(spread(x), spread(residual), spread(case.grad))
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)
