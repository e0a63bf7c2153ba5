"""DeltaConvBlock: the written formula, its shapes and types."""

import math

import pytest
import torch
import torch.nn.functional as F

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
