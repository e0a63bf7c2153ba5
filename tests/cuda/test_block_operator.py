"""DeltaConvBlock's fused path, with the host build in place of the GPU: when it is taken, and that it is the block."""

import copy

import pytest
import torch
from host_block import run_block
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch.utils.flop_counter import FlopCounterMode

import deltaconv_kernels as dk
from deltaconv_kernels import fusing
from deltaconv_kernels.backends import why_not_in_use
from deltaconv_kernels.block_arguments import BlockArguments
from deltaconv_kernels.reference import GATES
from deltaconv_kernels.testing import ERROR_BUDGET, relative_error

LAUNCHES = 4


def block_on_host(*arguments):
    """As csrc/cuda/ops/block_op.cpp: tensors are made dense."""
    block = BlockArguments(*(a.contiguous() if isinstance(a, torch.Tensor) else a for a in arguments))
    return run_block(block._replace(gate=GATES[int(block.gate)])).result


@pytest.fixture
def fused(host, monkeypatch):
    """CPU tensors take the fused path; counts the launches since the last call."""
    monkeypatch.setattr(fusing, "FUSED_ON", ("cpu",))
    monkeypatch.setattr(fusing, "why_not_in_use", lambda name, device, dtype: None)
    monkeypatch.setattr(fusing, "can_run", lambda name, device, dtype: True)
    library = torch.library.Library("deltaconv", "IMPL")
    library.impl("block_cuda", block_on_host, "CPU")
    last = host.launches()

    def launched():
        nonlocal last
        before, last = last, host.launches()
        return last - before

    yield launched
    library._destroy()


@pytest.fixture
def block():
    torch.manual_seed(0)
    return dk.DeltaConvBlock(48, kernel_size=3, dtype=torch.bfloat16).eval()


def images(dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, 7, 9, 48, generator=generator).to(dtype) for _ in range(2))


def expected(block, x, residual=None):
    exact = copy.deepcopy(block).double()
    return exact(x.double(), None if residual is None else residual.double())


@torch.no_grad()
def test_the_block_takes_it(fused, block):
    x, residual = images()
    assert block.why_not_fused(x, residual) is None
    result = block(x, residual)
    assert fused() == LAUNCHES
    assert relative_error(result, expected(block, x, residual)) <= ERROR_BUDGET[torch.bfloat16]
    with torch.inference_mode():
        assert torch.equal(block(x, residual), result)
    assert torch.equal(dk.delta_block(*block.arguments(x, residual)), result)
    assert fused() == 2 * LAUNCHES


@torch.no_grad()
def test_compiled_and_exported(fused, block):
    torch._dynamo.reset()
    x, residual = images()
    result = block(x, residual)
    compiled = torch.compile(block, fullgraph=True)
    exported = torch.export.export(block, (x, residual)).module()
    fused()
    for function in (compiled, exported):
        assert torch.equal(function(x, residual), result)
        assert fused() == LAUNCHES


@torch.no_grad()
def test_compiled_for_any_size(fused, block):
    torch._dynamo.reset()
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend=counting)
    for batch, height, width in ((2, 5, 9), (3, 7, 6)):
        x = torch.randn(batch, height, width, 48).bfloat16()
        assert torch.equal(compiled(x), block(x))
    assert len(graphs) == 1


class Adapter(nn.Linear):
    """As adapters replace a layer."""


def with_hook(block):
    return block.in_proj.register_forward_hook(lambda module, arguments, output: output)


def with_forward(block):
    block.out_proj.forward = block.out_proj.forward


def with_hook_on_every_module(block):
    return nn.modules.module.register_module_forward_hook(lambda module, arguments, output: output)


def with_adapter(block):
    block.pool_proj = Adapter(48, 48, dtype=torch.bfloat16)


@pytest.mark.parametrize("change", [with_hook, with_forward, with_adapter, with_hook_on_every_module])
@torch.no_grad()
def test_projections_that_do_more_are_called(fused, block, change):
    x, residual = images()
    handle = change(block)
    try:
        assert "no plain nn.Linear" in block.why_not_fused(x, residual)
        result = block(x, residual)
    finally:
        if handle is not None:
            handle.remove()
    assert fused() == 0
    assert relative_error(result, expected(block, x, residual)) <= ERROR_BUDGET[torch.bfloat16]


def test_gradients_are_recorded(fused, block):
    x, residual = images()
    assert block.why_not_fused(x) == "gradients are recorded"
    block(x, residual).float().square().sum().backward()
    by_module = [parameter.grad for parameter in block.parameters()]
    block.zero_grad()
    dk.delta_block(*block.arguments(x, residual)).float().square().sum().backward()
    assert fused() == 0
    assert all(torch.equal(parameter.grad, grad) for parameter, grad in zip(block.parameters(), by_module, strict=True))
    block.requires_grad_(False)
    assert block.why_not_fused(x) is None
    assert block.why_not_fused(x.requires_grad_()) == "gradients are recorded"


@torch.no_grad()
def test_autocast_is_left_alone(fused):
    torch.manual_seed(0)
    block = dk.DeltaConvBlock(48, kernel_size=3)
    x, residual = images(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert block.why_not_fused(x.bfloat16()) == "autocast chooses each operator's type"
        delta, summed = block(x), block(x, residual)
        again = dk.delta_block(*block.arguments(x, residual))
    assert fused() == 0
    assert (delta.dtype, summed.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(again, summed)


@torch.no_grad()
def test_reasons(fused, block, monkeypatch):
    x, residual = images()
    for reason, why in (
        (r"computes in torch.float16, torch.bfloat16, x is torch.float32", block.why_not_fused(x.float())),
        ("residual is torch.float32", block.why_not_fused(x, residual.float())),
        ("not every tensor is a plain one of torch.float16", block.why_not_fused(x.half())),
        ("dim = 20, inter = 10 and", dk.DeltaConvBlock(20, 3).why_not_fused(x[..., :20])),
        (
            "inter = 20 and S * inter / 2 = 20 are not all multiples of 8",
            dk.DeltaConvBlock(40, 3).why_not_fused(x[..., :40]),
        ),
        ("a factor of (1, 2) is larger than the image, 1 x 9", block.why_not_fused(x[:, :1])),
    ):
        assert reason in why
    with pytest.raises(ValueError, match=r"factors: expected 1 to min\(H, W\) for x of 1 x 9, got 2"):
        block(x[:, :1])
    monkeypatch.setattr(fusing, "FUSED_ON", ("cuda",))
    assert block.why_not_fused(x) == "the fused block runs on cuda, x is on cpu"


def test_the_backend_in_use_decides(block):
    """Without a GPU, or with another backend asked for, the operator is composed."""
    with torch.no_grad(), dk.use_backend("reference"):
        assert why_not_in_use("cuda", torch.device("cuda"), torch.bfloat16) == "the backend in use is 'reference'"
    assert why_not_in_use("cuda", torch.device("cpu"), torch.bfloat16) == "it runs on cuda, x is on cpu"


@torch.no_grad()
def test_tangents_are_not_lost(fused, block):
    x, tangent = images()
    _, result = torch.func.jvp(block, (x,), (tangent,))
    assert fused() == 0
    exact = copy.deepcopy(block).double()
    _, right = torch.func.jvp(exact, (x.double(),), (tangent.double(),))
    assert relative_error(result, right) <= 2 * ERROR_BUDGET[torch.bfloat16]
    assert relative_error(torch.vmap(block)(x[:, None]), expected(block, x)[:, None]) <= ERROR_BUDGET[torch.bfloat16]


@torch.no_grad()
def test_a_gpu_that_cannot_fuse_leaves_its_projections_to_the_compiler(fused, block, monkeypatch):
    """What cannot change while a process lives is decided while tracing."""
    torch._dynamo.reset()
    block_ops_in_graph = []

    def keep(graph, inputs):
        block_ops_in_graph.extend(str(node.target) for node in graph.graph.nodes if "deltaconv" in str(node.target))
        return graph

    for possible, expected_operators in ((True, ["deltaconv.block.default"]), (False, ["deltaconv.pyramid.default"])):
        monkeypatch.setattr(fusing, "can_run", lambda name, device, dtype, possible=possible: possible)
        for mode in (torch.no_grad, torch.inference_mode):
            torch._dynamo.reset()
            block_ops_in_graph.clear()
            compiled = torch.compile(block, fullgraph=True, backend=aot_autograd(fw_compiler=keep))
            with mode():
                x, residual = images()
                assert relative_error(compiled(x, residual), block(x, residual)) <= ERROR_BUDGET[torch.bfloat16]
            assert block_ops_in_graph == expected_operators


@torch.no_grad()
def test_strided_input(fused, block):
    x, residual = images()
    strided = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    assert torch.equal(block(strided, residual), block(strided.contiguous(), residual))
    assert fused() == 2 * LAUNCHES


@torch.no_grad()
def test_floating_point_operations_are_those_of_its_parts(fused, block, monkeypatch):
    counts = []
    for devices in (("cpu",), ()):
        monkeypatch.setattr(fusing, "FUSED_ON", devices)
        with FlopCounterMode(display=False) as counter:  # it hooks every module, so a module would be composed
            dk.delta_block(*block.arguments(images()[0]))
        counts.append(counter.get_total_flops())
    assert fused() == LAUNCHES
    assert counts[0] == counts[1] > 0
