"""Attention analysis of one layer of SD1.5's widest grid, 4096 tokens, against running that layer."""

import pytest
import torch
from deltaconv_distill.analysis import Sampling, record
from diffusers import Transformer2DModel, UNet2DConditionModel
from tables import Ratio
from timing import interleaved_medians

QUERIES = {"1024 queries": 1024, "all queries": None}


def one_layer_model() -> UNet2DConditionModel:
    """One self-attention of 320 channels and 8 heads at the latent's resolution, weights random."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(320,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
        attention_head_dim=8,
        cross_attention_dim=768,
    )
    return unet.eval().requires_grad_(False)


@torch.no_grad()
@pytest.mark.parametrize("queries", QUERIES)
def test_analysis_of_a_layer(benchmark, add_row, queries):
    """What `deltaconv analyze` adds to a forward with guidance: attention, outputs under windows, receptive field."""
    unet = one_layer_model()
    owner = next(module for module in unet.modules() if isinstance(module, Transformer2DModel))
    attention = owner.transformer_blocks[0].attn1
    image, text = torch.randn(2, 320, 64, 64), torch.randn(2, 77, 768)
    tokens = torch.randn(2, 4096, 320)

    def run() -> torch.Tensor:
        return owner(image, encoder_hidden_states=text).sample

    expected = run()
    with record(unet, Sampling(max_queries=QUERIES[queries])) as recording:
        recording.begin({"timestep": 500})

        def looked_at() -> torch.Tensor:
            return run()

        assert looked_at().equal(expected)
        seconds = interleaved_medians({"looked at": looked_at}, seconds=1, least_rounds=1)["looked at"]
        benchmark.pedantic(looked_at, rounds=1)
    plain = interleaved_medians({"plain": run, "attention": lambda: attention(tokens)}, seconds=1, least_rounds=1)
    added = seconds - plain["plain"]
    benchmark.extra_info.update(queries=queries, seconds=added, ratio_to_attention=added / plain["attention"])
    add_row(
        "attention analysis of one layer, 4096 tokens, 320 channels, 8 heads, two images",
        looked_at=queries,
        **{"added, s": f"{added:.1f}", "over the self-attention itself": Ratio(added / plain["attention"])},
    )
