"""What a call of the CPU kernels takes beside its results: nothing of x's size."""

import pytest
import torch
from peak_memory import peak_memory

from deltaconv_kernels import backends, use_backend
from deltaconv_kernels.testing import Shape, assert_matches_oracle, make_case

# x, its gradient and the result: 128 MiB each. Partial sums take 8 MiB, of half the image and of the whole one alike.
CASE = make_case(Shape(1, 1024, 512, 64, 9))
X_BYTES = CASE.x.numel() * CASE.x.element_size()


def run(training):
    arguments = (CASE.x, CASE.weight, CASE.bias, list(CASE.factors), 0, 1.0)
    if training:
        return torch.ops.deltaconv.pyramid_backward_cpu(CASE.grad, *arguments, [True, True, True])
    return torch.ops.deltaconv.pyramid_cpu(*arguments, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="peak_memory counts the GPU's memory here")
@pytest.mark.parametrize("training", [False, True], ids=["forward", "backward"])
def test_a_call_takes_little_beside_its_results(training):
    assert backends()["cpu"].available  # loads the library
    run(training)
    peak = peak_memory(lambda: run(training))
    if peak is None:
        pytest.skip("needs Linux's /proc/self/clear_refs")
    beside = peak - X_BYTES  # the result, or the gradient of x
    assert peak > 0.5 * X_BYTES, "the result itself must have been counted"
    assert beside < X_BYTES / 8, f"{beside / 2**20:.0f} MiB beside results of {X_BYTES / 2**20:.0f} MiB"


def test_strips_that_share_a_partial_sum():
    """In large images several strips add to one partial weight gradient, which bounds their memory."""
    with use_backend("cpu"):
        assert_matches_oracle(make_case(Shape(1, 512, 512, 12, 5)))
