"""The whole block on a GPU: right, in four launches, compiled and in CUDA graphs, the same bits every time."""

import copy

import pytest
import torch
from host_block import run_block
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import deltaconv_kernels as dk
from deltaconv_kernels.cuda_plan import this_gpu
from deltaconv_kernels.testing import ERROR_BUDGET, poisoned_outputs, relative_error

_STATUS = dk.backends()["cuda"]
pytestmark = pytest.mark.skipif(not _STATUS.available, reason=f"cuda cannot run: {_STATUS.reason}")

DTYPES = (torch.bfloat16, torch.float16)
# batch, height, width, dim, K: published widths, then tails of every kind.
SIZES = [(2, 64, 64, 320, 9), (2, 16, 16, 1280, 5), (1, 32, 32, 1152, 13), (3, 33, 29, 96, 7), (1, 1, 1, 32, 1)]


@pytest.fixture(autouse=True)
def cuda_in_use():
    with torch.no_grad(), dk.use_backend("cuda"), poisoned_outputs():
        yield


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


def problem(dtype, batch=2, height=32, width=32, dim=320, kernel_size=9):
    torch.manual_seed(0)
    factors = (1, 2) if min(height, width) > 1 else (1, 1)
    block = dk.DeltaConvBlock(dim, kernel_size, factors, device="cuda", dtype=dtype)
    x, residual = (torch.randn(batch, height, width, dim, device="cuda", dtype=dtype) for _ in range(2))
    return block, x + 0.5, residual


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matches_the_float64_reference(size, dtype):
    block, x, residual = problem(dtype, *size)
    assert block.why_not_fused(x, residual) is None
    result, alone = block(x, residual), block(x)
    exact = copy.deepcopy(block).double()
    with dk.use_backend("reference"):
        assert relative_error(result, exact(x.double(), residual.double())) <= ERROR_BUDGET[dtype]
        assert relative_error(alone, exact(x.double())) <= ERROR_BUDGET[dtype]


def test_agrees_with_the_host_build(host, dtype):
    block, x, residual = problem(dtype, 2, 19, 21, 352, 7)
    arguments = block.arguments(x, residual)
    result = dk.delta_block(*arguments)
    on_host = arguments._replace(**{n: t.cpu() for n, t in arguments._asdict().items() if isinstance(t, torch.Tensor)})
    expected = run_block(on_host, host.DeviceProperties(*this_gpu())).result
    assert relative_error(result.cpu(), expected) <= ERROR_BUDGET[dtype] / 5


def test_four_launches(dtype):
    block, x, residual = problem(dtype)
    block(x, residual)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        block(x, residual)
        torch.cuda.synchronize()
    kernels = [event.name for event in profiler.events() if event.device_type == DeviceType.CUDA]
    ours = [name for name in kernels if "pyramid_kernel" in name]
    fills = [name for name in kernels if "fill" in name.lower()]  # NaN in what poisoned_outputs allocates
    assert len(ours) == 4
    assert len(kernels) == len(ours) + len(fills), kernels


def test_compiled_and_in_a_graph(dtype):
    torch._dynamo.reset()
    block, x, residual = problem(dtype)
    expected = block(x, residual)
    assert torch.equal(torch.compile(block, fullgraph=True)(x, residual), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = block(x, residual)
    captured.fill_(torch.nan)
    graph.replay()
    assert torch.equal(captured, expected)


def test_repeats_its_bits(dtype):
    block, x, residual = problem(dtype, 2, 64, 64, 640, 9)
    first = block(x, residual)
    assert all(torch.equal(block(x, residual), first) for _ in range(5))


def test_strided_and_unaligned_input(dtype):
    block, x, residual = problem(dtype, 2, 9, 11, 64, 5)
    expected = block(x, residual)
    odd = torch.cat([x.flatten(), x.flatten()[:1]]).roll(1)[1:].view_as(x)
    assert odd.data_ptr() % 16 != 0
    for view in (odd, x.transpose(1, 2).contiguous().transpose(1, 2), torch.cat([x, x], dim=-1)[..., :64]):
        assert torch.equal(block(view, residual), expected)


def test_runs_on_the_current_stream():
    block, x, _ = problem(torch.bfloat16)
    expected = block(x)
    late, stream = torch.zeros_like(x), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # cycles
        late.copy_(x)
        result = block(late)
    stream.synchronize()
    assert torch.equal(result, expected)


def test_beyond_2_to_the_31_elements():
    """The last image, whose offsets need 64 bits, is the same one alone."""
    block, one, _ = problem(torch.float16, 1, 256, 256, 64, 3)
    images = 2**31 // one.numel() + 1
    x = torch.zeros(images, *one.shape[1:], device="cuda", dtype=torch.float16)
    x[-1] = one[0]
    assert x.numel() > 2**31
    assert torch.equal(block(x)[-1], block(one)[0])


def test_other_backends_compose_it():
    block, x, residual = problem(torch.bfloat16)
    with dk.use_backend("reference"):
        assert block.why_not_fused(x) == "the backend in use is 'reference'"
        exact = copy.deepcopy(block).double()(x.double(), residual.double())
        assert relative_error(block(x, residual), exact) <= ERROR_BUDGET[torch.bfloat16]
