"""The backends that need a GPU, on one: the operator's grid, tracing, graphs, and tensors beyond 32 bits."""

from collections.abc import Iterator

import pytest
import torch

import deltaconv_kernels as dk
from deltaconv_kernels import reference
from deltaconv_kernels.testing import (
    GPU_TEST_SHAPES,
    NAMED_SHAPES,
    Shape,
    assert_matches_oracle,
    make_case,
    poisoned_outputs,
    relative_error,
    run_with_gradients,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(params=["cuda", "triton"], autouse=True)
def backend_in_use(request: pytest.FixtureRequest) -> Iterator[None]:
    status = dk.backends()[request.param]
    if not torch.cuda.is_available() or not status.available:
        pytest.skip(f"{request.param} cannot run: {status.reason or 'no GPU that this torch can use'}")
    with dk.use_backend(request.param), poisoned_outputs():
        yield


def cuda_case(shape, dtype=torch.float32, **options):
    return make_case(shape, dtype, "cuda", **options)


@pytest.mark.parametrize("gate", reference.GATES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", GPU_TEST_SHAPES, ids=str)
def test_matches_the_float64_reference(shape, dtype, gate):
    assert_matches_oracle(cuda_case(shape, dtype, gate=gate, residual=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [name for name in NAMED_SHAPES if not name.startswith("hires")])
def test_named_shapes(name, dtype):
    assert_matches_oracle(cuda_case(NAMED_SHAPES[name], dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck(dtype):
    case = cuda_case(Shape(1, 6, 8, 8, 3), dtype, residual=True)
    leaves = [t.requires_grad_() for t in (case.x, case.weight, case.bias, case.residual)]
    torch.library.opcheck(
        torch.ops.deltaconv.pyramid.default, (*leaves[:3], case.factors, case.gate, case.gate_scale, leaves[3])
    )


def test_compiles_without_graph_breaks():
    case = cuda_case(Shape(2, 16, 16, 32, 5))
    compiled = torch.compile(dk.pyramid, fullgraph=True)
    expected = run_with_gradients(dk.pyramid, case)
    for name, result in run_with_gradients(compiled, case).items():
        assert torch.equal(result, expected[name]), name


def test_autocast():
    case = cuda_case(Shape(1, 8, 8, 16, 3))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert dk.pyramid(*case.arguments).dtype == torch.bfloat16


def test_cuda_graph():
    case = cuda_case(NAMED_SHAPES["sd15-32-k9"], torch.float16)
    expected = dk.pyramid(*case.arguments)  # compiles before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = dk.pyramid(*case.arguments)
    y.zero_()
    graph.replay()
    assert torch.equal(y, expected)


def test_repeats_its_bits():
    case = cuda_case(NAMED_SHAPES["sdxl-32-k7"], torch.bfloat16)
    first = run_with_gradients(dk.pyramid, case)
    for _ in range(5):
        again = run_with_gradients(dk.pyramid, case)
        assert all(torch.equal(first[name], again[name]) for name in first)


def test_more_than_2_to_the_31_elements():
    """The last rows of an image beyond 32-bit offsets, against the same rows alone."""
    batch, height, width, channels, kernel_size = 9, 4096, 1024, 64, 3
    assert batch * height * width * channels > 2**31
    x = torch.zeros(batch, height, width, channels, dtype=torch.float16, device="cuda")
    case = cuda_case(Shape(1, 64, width, channels, kernel_size, (1, 2)), torch.float16)
    x[-1, -64:] = case.x[0]
    y = dk.pyramid(x, *case.arguments[1:])
    alone = reference.pyramid_forward(*case.arguments)
    assert relative_error(y[-1:, -32:], alone[:, -32:]) <= 2e-3
