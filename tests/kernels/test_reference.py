"""The yardstick itself: exact at every size, and without a trace in the process's settings."""

import threading

import numpy as np
import pytest
import torch

from deltaconv_kernels import reference
from deltaconv_kernels.testing import ERROR_BUDGET, Shape, make_case, oracle, relative_error, run_with_gradients


def specified_row(x, factor):
    """pyramid of one row [W, 2] with weight 1, factor and gate "scaled", in integers and float64."""
    W = len(x)
    w = W // factor
    i = np.arange(w, dtype=np.int64)
    start, end = i * W // w, -(-(i + 1) * W // w)
    sums = np.concatenate([np.zeros((1, 2)), np.cumsum(x, axis=0)])
    u, v = ((sums[end] - sums[start]) / (end - start)[:, None]).T
    place = np.maximum((2 * np.arange(W, dtype=np.int64) + 1) * w - W, 0)
    near = place // (2 * W)
    share = (place - near * 2 * W) / (2 * W)
    gated = u * v
    return gated[near] * (1 - share) + gated[np.minimum(near + 1, w - 1)] * share


@pytest.mark.parametrize(
    ("width", "dtype", "budget"),
    [(9001, torch.float64, 1e-12), (50001, torch.float32, 1e-6), (200001, torch.float32, 1e-6)],
    ids=str,
)
def test_wide_rows(width, dtype, budget):
    torch.manual_seed(0)
    row = torch.randn(width, 2, dtype=dtype)
    x, weight = row.expand(1, 2, width, 2), torch.ones(1, 1, 1, 2, dtype=dtype)
    y = reference.pyramid_forward(x, weight, None, (2,), "scaled", 1.0, None)[0, 0, :, 0]
    assert relative_error(y, torch.from_numpy(specified_row(row.double().numpy(), 2))) <= budget


def test_upsampling_is_pytorchs_where_that_is_exact():
    planes = torch.randn(2, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    ours = reference.upsample(planes, (13, 28), 2)
    theirs = torch.nn.functional.interpolate(planes, (13, 28), mode="bilinear")
    assert relative_error(ours.detach(), theirs.detach()) <= 1e-6  # theirs has its positions in float32
    grad = torch.randn_like(ours)
    (expected,) = torch.autograd.grad(ours, planes, grad)
    assert relative_error(reference.upsample_adjoint(grad, (5, 7)), expected) <= 1e-15


@pytest.mark.parametrize(
    "shape",
    [Shape(1, 2048, 1024, 4, 3, (1024,)), Shape(1, 1200, 1200, 4, 3, (1, 400)), Shape(1, 3, 300001, 2, 1, (3,))],
    ids=str,
)
def test_long_sums_keep_the_error_budget(shape):
    """Windows of a million pixels, weight gradients over two million: twice as exact as must be, as a yardstick is."""
    case = make_case(shape, gate="sigmoid")
    expected = oracle(case)
    y = reference.pyramid_forward(*case.arguments)
    grads = reference.pyramid_backward(*case.backward_arguments, [True] * 3)
    for name, result in zip(("y", "grad_x", "grad_weight", "grad_bias"), (y, *grads), strict=True):
        assert relative_error(result, expected[name]) <= ERROR_BUDGET[torch.float32] / 2, name


def test_no_setting_of_the_process_is_touched(monkeypatch):
    """In any thread: a setter of cuDNN's flags that is called at all fails the test."""

    def refuse(*arguments):
        raise AssertionError("the reference changed a flag of the whole process")

    for name in ("_set_cudnn_allow_tf32", "_set_cudnn_enabled", "_set_cudnn_benchmark", "_set_cudnn_deterministic"):
        monkeypatch.setattr(torch._C, name, refuse)
    case = make_case(Shape(1, 9, 8, 4, 3))
    failures = []

    def run():
        try:
            reference.pyramid_forward(*case.arguments)
            reference.pyramid_backward(*case.backward_arguments, [True] * 3)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_runs_where_the_precision_of_float32_was_chosen(backend):
    """torch refuses to read its older flags once the newer setting is used."""
    case = make_case(Shape(1, 9, 8, 4, 3))
    previous = torch.backends.fp32_precision
    torch.backends.fp32_precision = "ieee"
    try:
        result = run_with_gradients(torch.ops.deltaconv.pyramid, case)
    finally:
        torch.backends.fp32_precision = previous
    for name, right in oracle(case).items():
        assert relative_error(result[name], right) <= ERROR_BUDGET[torch.float32], name
