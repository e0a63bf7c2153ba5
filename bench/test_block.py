"""A whole DeltaConvBlock against the self-attention layer that it replaces, projections included."""

import pytest
import torch
from peers import SelfAttention
from timing import interleaved_medians

import deltaconv_kernels as dk
from deltaconv_kernels.testing import relative_error

WIDTH, HEADS, KERNEL_SIZE = 320, 8, 9


@pytest.mark.parametrize("tokens", [1024, 4096, 16384])
def test_block_against_self_attention(benchmark, add_row, tokens):
    torch.manual_seed(0)
    side = int(tokens**0.5)
    block = dk.DeltaConvBlock(WIDTH, KERNEL_SIZE).eval()
    attention = SelfAttention(WIDTH, HEADS).eval()
    x = torch.randn(1, side, side, WIDTH)
    with torch.no_grad():
        with dk.use_backend("reference"):
            expected = block(x)
        assert relative_error(block(x), expected) <= 1e-5
        functions = {"ours": lambda: block(x), "attention": lambda: attention(x.flatten(1, 2))}
        medians = interleaved_medians(functions, seconds=2)
        benchmark.pedantic(functions["ours"], rounds=5)
    ratio = medians["attention"] / medians["ours"]
    benchmark.extra_info.update(tokens=tokens, width=WIDTH, ratio_to_attention=ratio)
    add_row(
        f"block against SDPA self-attention, width {WIDTH}, K = {KERNEL_SIZE}, float32",
        tokens=str(tokens),
        **{"vs attention": f"{ratio:.1f}x"},
    )
