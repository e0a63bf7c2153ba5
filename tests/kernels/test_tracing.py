"""The operator under PyTorch's machinery: opcheck, compile, export, autocast."""

import pytest
import torch

import deltaconv_kernels as dk
from deltaconv_kernels.testing import (
    ERROR_BUDGET,
    Shape,
    make_case,
    oracle,
    relative_error,
    run_with_gradients,
)

SHAPE = Shape(2, 9, 8, 12, 3)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("residual", [False, True], ids=["no-residual", "residual"])
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck_forward(backend, dtype, bias, residual):
    case = make_case(SHAPE, dtype, bias=bias, residual=residual)
    arguments = [t.requires_grad_() if isinstance(t, torch.Tensor) else t for t in case.arguments]
    torch.library.opcheck(torch.ops.deltaconv.pyramid.default, arguments)


@pytest.mark.parametrize("mask", [(True, True, True), (True, False, False), (False, True, True)], ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck_backward(backend, dtype, bias, mask):
    arguments = (*make_case(SHAPE, dtype, bias=bias).backward_arguments, list(mask))
    torch.library.opcheck(torch.ops.deltaconv.pyramid_backward.default, arguments)


def test_compile_without_graph_breaks_or_recompilation(backend):
    torch._dynamo.reset()
    compilations = []

    def counting_backend(graph, inputs):
        compilations.append(graph)
        return graph

    @torch.compile(fullgraph=True, dynamic=True, backend=counting_backend)
    def function(x, weight, bias):
        return dk.pyramid(x * 2, weight, bias, (1, 2)).sin()

    # No size equals another argument's: torch takes equal sizes for the same symbol and would specialise both.
    for batch, height, width in ((5, 9, 8), (6, 11, 16), (4, 8, 25)):
        case = make_case(Shape(batch, height, width, 12, 3))
        compiled = function(case.x, case.weight, case.bias)
        eager = dk.pyramid(case.x * 2, case.weight, case.bias, (1, 2)).sin()
        assert torch.equal(compiled, eager)
    assert len(compilations) == 1


def test_compiled_gradients_through_inductor(backend):
    torch._dynamo.reset()
    case = make_case(SHAPE, residual=True)
    compiled = run_with_gradients(torch.compile(dk.pyramid, fullgraph=True), case)
    expected = oracle(case)
    for name in expected:
        assert relative_error(compiled[name], expected[name]) <= ERROR_BUDGET[torch.float32], name


def test_compiled_block_with_dynamic_shapes(backend):
    torch._dynamo.reset()
    torch.manual_seed(0)
    block = dk.DeltaConvBlock(16, kernel_size=3)
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 6, 7, 16), (1, 12, 9, 16)):
        x = torch.randn(size)
        grads = []
        for function in (block, compiled):
            leaf = x.clone().requires_grad_()
            grads.append(torch.autograd.grad(function(leaf, leaf).square().sum(), (leaf, *block.parameters())))
        for eager, traced in zip(*grads, strict=True):
            torch.testing.assert_close(traced, eager)


def test_export_with_dynamic_shapes():
    torch.manual_seed(0)
    block = dk.DeltaConvBlock(16, kernel_size=3, factors=(1, 2, 3)).eval()
    dynamic = {0: torch.export.Dim("B"), 1: torch.export.Dim("H", min=3), 2: torch.export.Dim("W", min=3)}
    program = torch.export.export(block, (torch.randn(2, 12, 12, 16),), dynamic_shapes={"x": dynamic})
    for size in ((2, 12, 12, 16), (3, 9, 11, 16), (1, 3, 40, 16)):
        x = torch.randn(size)
        assert torch.equal(program.module()(x), block(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_reads_the_region(backend, dtype):
    case = make_case(SHAPE, residual=True)
    with torch.autocast("cpu", dtype):
        result = dk.pyramid(*case.arguments)
        overload = torch.ops.deltaconv.pyramid(case.x, case.weight, None, [1, 2])
    assert result.dtype == overload.dtype == dtype
    assert torch.equal(result, dk.pyramid(*case.to(dtype).arguments))


def test_autocast_casts_mixed_inputs_and_returns_their_gradients(backend):
    case = make_case(SHAPE)
    x = case.x.bfloat16().requires_grad_()
    weight = case.weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = dk.pyramid(x, weight, case.bias, case.factors, case.gate, case.gate_scale)
    y.sum().backward()
    assert (x.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)


def test_autocast_leaves_float64_alone(backend):
    case = make_case(SHAPE, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert dk.pyramid(*case.arguments).dtype == torch.float64


def test_autocast_inside_compile(backend):
    torch._dynamo.reset()
    case = make_case(SHAPE)

    def function(x, weight, bias):
        with torch.autocast("cpu", torch.bfloat16):
            return dk.pyramid(x, weight, bias, (1, 2))

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    result = compiled(case.x, case.weight, case.bias)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, function(case.x, case.weight, case.bias))


@torch._dynamo.config.patch(capture_scalar_outputs=True)
@pytest.mark.parametrize("axis", [1, 2], ids=["height", "width"])
@pytest.mark.parametrize("backend_of_compile", ["aot_eager", "inductor"])
def test_compiles_sizes_that_depend_on_data(backend, axis, backend_of_compile):
    """`x[:, :n.item()]`: what can be checked only when the graph runs is checked then."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    block = dk.DeltaConvBlock(12, kernel_size=3, expansion=1.0).requires_grad_(False)
    case = make_case(SHAPE)

    def function(x, count):
        x = x.narrow(axis, 0, count.item())
        return dk.pyramid(x, case.weight, case.bias, case.factors), block(x, x), dk.delta_block(*block.arguments(x, x))

    compiled = torch.compile(function, fullgraph=True, backend=backend_of_compile)
    for count in (5, 7):
        results = compiled(case.x, torch.tensor(count))
        for result, expected in zip(results, function(case.x, torch.tensor(count)), strict=True):
            assert relative_error(result, expected) <= 1e-6


def test_exports_sizes_that_depend_on_data():
    class Cropped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block = dk.DeltaConvBlock(16, kernel_size=3)

        def forward(self, x, count):
            return self.block(x[:, : count.item()])

    torch.manual_seed(0)
    model, x = Cropped().requires_grad_(False), torch.randn(2, 9, 8, 16)
    program = torch.export.export(model, (x, torch.tensor(5))).module()
    for count in (5, 8):
        assert torch.equal(program(x, torch.tensor(count)), model(x, torch.tensor(count)))
    with pytest.raises(RuntimeError, match="Runtime assertion failed"):
        program(x, torch.tensor(1))  # smaller than a factor
