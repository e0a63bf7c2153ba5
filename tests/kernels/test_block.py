"""DeltaConvBlock: the written formula, its shapes and types."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import deltaconv_kernels as dk
from deltaconv_kernels import reference
from deltaconv_kernels.testing import relative_error


@pytest.mark.parametrize("gate", reference.GATES)
def test_is_the_written_formula(backend, gate):
    torch.manual_seed(0)
    block = dk.DeltaConvBlock(24, kernel_size=5, factors=(1, 2), gate=gate, dtype=torch.float64)
    x, residual = torch.randn(2, 9, 7, 24, dtype=torch.float64), torch.randn(2, 9, 7, 24, dtype=torch.float64)
    planes = F.linear(x, block.in_proj.weight, block.in_proj.bias).permute(0, 3, 1, 2)
    stages = []
    for i, pooled in enumerate((planes, F.adaptive_avg_pool2d(planes, (4, 3)))):
        filters = block.weight[i].permute(2, 0, 1).unsqueeze(1)
        u, v = F.conv2d(pooled, filters, block.bias[i], padding=2, groups=12).chunk(2, dim=1)
        gated = u * v * math.sqrt(12 / 2) if gate == "scaled" else u * torch.sigmoid(v)
        stages.append(F.interpolate(gated, (9, 7), mode="bilinear"))
    local = torch.cat(stages, dim=1).permute(0, 2, 3, 1)
    delta = block.out_proj(local) + block.pool_proj(x.mean(dim=(1, 2)))[:, None, None]
    assert relative_error(block(x), delta) <= 1e-13
    assert relative_error(block(x, residual), residual + delta) <= 1e-13


def test_parameters_have_the_documented_shapes():
    block = dk.DeltaConvBlock(32, kernel_size=7, factors=(1, 2, 4), expansion=0.75)
    shapes = {name: tuple(p.shape) for name, p in block.named_parameters()}
    assert shapes == {
        "weight": (3, 7, 7, 24),
        "bias": (3, 24),
        "in_proj.weight": (24, 32),
        "in_proj.bias": (24,),
        "out_proj.weight": (32, 36),
        "out_proj.bias": (32,),
        "pool_proj.weight": (32, 32),
        "pool_proj.bias": (32,),
    }
    assert dk.DeltaConvBlock(32, bias=False).bias is None


def test_every_parameter_learns(backend):
    torch.manual_seed(0)
    block = dk.DeltaConvBlock(16, kernel_size=3)
    x = torch.randn(1, 6, 6, 16)
    block(x, residual=x).square().sum().backward()
    for name, parameter in block.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_dtype_argument(backend, dtype):
    torch.manual_seed(0)
    block = dk.DeltaConvBlock(16, kernel_size=3, dtype=dtype)
    assert {p.dtype for p in block.parameters()} == {dtype}
    assert block(torch.randn(1, 5, 6, 16, dtype=dtype)).dtype == dtype


def test_autocast_keeps_the_stream_in_its_own_type(backend):
    """The stream of residuals stays float32; a block rounds its delta, never the sum."""
    torch.manual_seed(0)
    block = dk.DeltaConvBlock(16, kernel_size=3)
    x, residual = torch.randn(2, 5, 6, 16), torch.randn(2, 5, 6, 16)
    with torch.autocast("cpu", torch.bfloat16):
        delta, summed = block(x), block(x, residual)
    assert (delta.dtype, summed.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(summed, residual + delta)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_arguments_are_left_alone(backend, requires_grad):
    torch.manual_seed(0)
    block = dk.DeltaConvBlock(16, kernel_size=3).requires_grad_(requires_grad)
    x, residual = torch.randn(2, 5, 6, 16), torch.randn(2, 5, 6, 16)
    before = x.clone(), residual.clone()
    assert relative_error(block(x, residual), residual + block(x)) <= 1e-6
    assert torch.equal(x, before[0])
    assert torch.equal(residual, before[1])


def test_device_argument_allocates_nothing_on_meta():
    block = dk.DeltaConvBlock(1152, kernel_size=13, device="meta")
    assert all(p.is_meta for p in block.parameters())
    assert block(torch.empty(2, 64, 64, 1152, device="meta")).shape == (2, 64, 64, 1152)


def test_odd_widths_round_to_an_even_inter():
    assert dk.DeltaConvBlock(18, kernel_size=3).weight.shape[-1] % 2 == 0


def test_repr_tells_what_it_is():
    text = repr(dk.DeltaConvBlock(16, kernel_size=3, gate="sigmoid"))
    assert "dim=16, kernel_size=3, factors=(1, 2), gate='sigmoid'" in text


def test_state_dict_round_trip():
    torch.manual_seed(0)
    block, other = dk.DeltaConvBlock(16, kernel_size=3), dk.DeltaConvBlock(16, kernel_size=3)
    other.load_state_dict(block.state_dict())
    x = torch.randn(1, 5, 6, 16)
    assert torch.equal(block(x), other(x))


def small_block(dtype=torch.float32, bias=True):
    torch.manual_seed(0)
    return dk.DeltaConvBlock(16, kernel_size=3, bias=bias, dtype=dtype)


def test_as_a_function(backend):
    block = small_block(torch.float64)
    x, residual = torch.randn(2, 5, 6, 16).double(), torch.randn(2, 5, 6, 16).double()
    results = [block(x, residual), dk.delta_block(*block.arguments(x, residual))]
    assert torch.equal(*results)
    gradients = [torch.autograd.grad(result.square().sum(), list(block.parameters())) for result in results]
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    with torch.no_grad():
        assert torch.equal(dk.delta_block(*block.arguments(x, residual)), results[0])
    assert not dk.delta_block(*block.arguments(x[:0])).numel()


@pytest.mark.parametrize("recorded", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(backend, dtype, bias, recorded):
    block = small_block(dtype, bias).requires_grad_(recorded)
    x = torch.randn(2, 5, 6, 16, dtype=dtype)
    torch.library.opcheck(torch.ops.deltaconv.block.default, tuple(block.arguments(x, x if bias else None)))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", torch.randn(5, 6, 16), "x: expected 4 dimensions"),
        ("in_weight", torch.randn(8), r"in_weight: expected 2 dimensions \[inter, dim\], got shape \[8\]"),
        ("in_weight", torch.randn(8, 17), r"in_weight: expected \[outputs, inputs\] = \[8, 16\], got shape \[8, 17\]"),
        ("in_bias", torch.randn(9), r"in_bias: expected \[outputs\] = \[8\]"),
        ("weight", torch.randn(2, 3, 3, 6), r"weight: expected \[S, K, K, C\] with C = 8 channels"),
        ("out_weight", torch.randn(16, 9), r"out_weight: expected \[outputs, inputs\] = \[16, 8\]"),
        ("pool_weight", torch.randn(16, 16).double(), "pool_weight: expected the dtype of x, torch.float32"),
        ("residual", torch.randn(1, 5, 6, 16), r"residual: expected the shape of x = \[2, 5, 6, 16\]"),
        ("factors", (1, 9), r"factors: expected 1 to min\(H, W\)"),
        ("gate", "soft", "gate: expected one of"),
    ],
)
def test_bad_arguments_are_named(name, value, message):
    block = small_block().requires_grad_(False)
    arguments = block.arguments(torch.randn(2, 5, 6, 16))
    with pytest.raises(ValueError, match=message):
        dk.delta_block(*arguments._replace(**{name: value}))


def test_says_why_it_is_not_fused():
    block = small_block(torch.bfloat16).requires_grad_(False)
    assert block.why_not_fused(torch.randn(1, 5, 6, 16).bfloat16()) == "the fused block runs on cuda, x is on cpu"


def test_floating_point_operations_are_those_of_its_parts():
    block, x = small_block().requires_grad_(False), torch.randn(2, 5, 6, 16)
    counts = []
    for function in (block, lambda x: dk.delta_block(*block.arguments(x))):
        with FlopCounterMode(display=False) as counter:
            function(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("recorded", [False, True], ids=["inference", "training"])
def test_on_a_cpu_it_is_the_sum_of_its_operators_bit_for_bit(backend, dtype, recorded):
    block = small_block(dtype).requires_grad_(recorded)
    x, residual = torch.randn(2, 5, 6, 16).to(dtype), torch.randn(2, 5, 6, 16).to(dtype)
    local = dk.pyramid(block.in_proj(x), block.weight, block.bias, block.factors, block.gate, block.gate_scale)
    delta = block.out_proj(local) + block.pool_proj(x.flatten(1, 2).mean(dim=1))[:, None, None]
    assert torch.equal(block(x), delta)
    assert torch.equal(block(x, residual), delta + residual)
