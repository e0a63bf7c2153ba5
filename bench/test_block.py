"""A whole DeltaConvBlock against the self-attention layer that it replaces, projections included."""

import pytest
import torch
from peers import SelfAttention
from tables import Ratio
from targets import block_table
from timing import interleaved_medians

import deltaconv_kernels as dk
from deltaconv_kernels.testing import relative_error

HEADS = 8
KERNEL_SIZES = {320: 9, 640: 9, 1152: 13}  # by width: SD1.5, SDXL and SD1.5, PixArt-Σ


@pytest.mark.quoted
@pytest.mark.parametrize("tokens", [1024, 4096, 16384])
@pytest.mark.parametrize("width", KERNEL_SIZES)
def test_block_against_self_attention(benchmark, add_row, width, tokens):
    torch.manual_seed(0)
    side = int(tokens**0.5)
    block = dk.DeltaConvBlock(width, KERNEL_SIZES[width]).eval()
    attention = SelfAttention(width, HEADS).eval()
    x = torch.randn(1, side, side, width)
    with torch.no_grad():
        with dk.use_backend("reference"):
            expected = block(x)
        assert relative_error(block(x), expected) <= 1e-5
        functions = {"ours": lambda: block(x, x), "attention": lambda: x + attention(x.flatten(1, 2)).view_as(x)}
        functions["projections"] = lambda: block.out_proj(block.in_proj(x))
        medians = interleaved_medians(functions, seconds=1, least_rounds=1)
        benchmark.pedantic(functions["ours"], rounds=3)
    ratio = medians["attention"] / medians["ours"]
    benchmark.extra_info.update(tokens=tokens, width=width, seconds=medians, ratio_to_attention=ratio)
    add_row(
        block_table(width, KERNEL_SIZES[width]),
        tokens=str(tokens),
        **{
            "attention, ms": f"{1e3 * medians['attention']:.1f}",
            "block, ms": f"{1e3 * medians['ours']:.1f}",
            "of it two linears, ms": f"{1e3 * medians['projections']:.1f}",
            "over attention": Ratio(ratio),
        },
    )
