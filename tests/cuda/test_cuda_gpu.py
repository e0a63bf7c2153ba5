"""What only a GPU shows of the cuda backend: streams, graphs of forward and backward, the bits of the host build."""

import pytest
import torch
from host_build import HostPyramid

import deltaconv_kernels as dk
from deltaconv_kernels.cuda_plan import this_gpu
from deltaconv_kernels.testing import Shape, make_case, poisoned_outputs, relative_error, run_with_gradients

_STATUS = dk.backends()["cuda"]
pytestmark = pytest.mark.skipif(not _STATUS.available, reason=f"cuda cannot run: {_STATUS.reason}")


@pytest.fixture(autouse=True)
def cuda_in_use():
    with dk.use_backend("cuda"), poisoned_outputs():
        yield


def test_runs_on_the_current_stream():
    """Work that another stream has not finished yet is waited for: the input is written there just before."""
    case = make_case(Shape(1, 64, 64, 64, 9), device="cuda")
    expected = dk.pyramid(*case.arguments)
    x = torch.zeros_like(case.x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # cycles
        x.copy_(case.x)
        y = dk.pyramid(x, *case.arguments[1:])
    stream.synchronize()
    assert torch.equal(y, expected)


def test_graph_of_forward_and_backward():
    case = make_case(Shape(2, 32, 32, 64, 7), torch.bfloat16, "cuda")
    arguments = (*case.backward_arguments, [True, True, True])
    expected = [dk.pyramid(*case.arguments), *torch.ops.deltaconv.pyramid_backward(*arguments)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = [dk.pyramid(*case.arguments), *torch.ops.deltaconv.pyramid_backward(*arguments)]
    for result in captured:
        result.fill_(torch.nan)
    graph.replay()
    for result, value in zip(captured, expected, strict=True):
        assert torch.equal(result, value)


@pytest.mark.parametrize("kernel_size", [1, 3, 7, 13, 15, 31])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_agrees_with_the_host_build(host, kernel_size, dtype):
    """The same kernels by the same plan: they differ by fused rounding alone."""
    case = make_case(Shape(1, 21, 37, 68, kernel_size, (1, 2, 3)), dtype, residual=True)
    expected = run_with_gradients(HostPyramid(host.DeviceProperties(*this_gpu())), case)
    for name, result in run_with_gradients(dk.pyramid, case.to("cuda")).items():
        assert relative_error(result.cpu(), expected[name]) < (1e-6 if dtype == torch.float32 else 2e-3), name
