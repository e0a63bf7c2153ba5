"""What wrong use of a fusion gets."""

from __future__ import annotations

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from diffusers import UNet2DConditionModel
from tiny_pipelines import TEXT_WIDTH, predict, tiny_controlnet, tiny_sd, tiny_sd_unet, tiny_sdxl_unet

MID = "mid_block.attentions.0.transformer_blocks.0.attn1"


def test_second_fusion_is_refused() -> None:
    unet = tiny_sd_unet()
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    with pytest.raises(RuntimeError, match="UNet2DConditionModel has a fusion attached"):
        DeltaConvFusion.convert(unet, kernel_size=3)
    with pytest.raises(RuntimeError, match="detach"):
        fusion.attach(tiny_sd_unet())


USES = {
    "teacher": lambda fusion: fusion.teacher().__enter__(),
    "ablate": lambda fusion: fusion.ablate("pool").__enter__(),
    "record_features": lambda fusion: fusion.record_features().__enter__(),
    "report": lambda fusion: fusion.report,
    "detach": lambda fusion: fusion.detach(),
}


@pytest.mark.parametrize("use", USES)
def test_use_without_a_denoiser(use: str) -> None:
    fusion = DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=3).detach()
    with pytest.raises(RuntimeError, match="not attached"):
        USES[use](fusion)


def test_unknown_ablation() -> None:
    fusion = DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=3)
    with pytest.raises(ValueError, match="what: expected 'removed' or 'pool', got 'none'"):
        fusion.ablate("none")


def test_attach_names_what_does_not_fit() -> None:
    fusion = DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=3).detach()
    with pytest.raises(ValueError, match=r"missing \[.*down_blocks\.0"):
        fusion.attach(tiny_sdxl_unet())
    with pytest.raises(ValueError, match=r"expected the UNet2DConditionModel .* got ControlNetModel"):
        fusion.attach(tiny_controlnet())
    wider = UNet2DConditionModel(**dict(tiny_sd_unet().config) | {"block_out_channels": (16, 64)})
    with pytest.raises(ValueError, match=rf"{MID} has 64 channels, its block 32") as error:
        fusion.attach(wider)
    assert "down_blocks.0" not in str(error.value)
    assert DeltaConvFusion.attached_to(wider) is None


@pytest.mark.parametrize("wrong", [torch.nn.Linear(2, 2), tiny_sd().vae, "sd"], ids=["module", "vae", "str"])
def test_unsupported_models(wrong: object) -> None:
    with pytest.raises(TypeError, match="pipe_or_denoiser: expected one of UNet2DConditionModel"):
        DeltaConvFusion.convert(wrong, kernel_size=3)


def test_cross_attention_is_skipped() -> None:
    unet = UNet2DConditionModel(**dict(tiny_sd_unet().config) | {"only_cross_attention": (True, False)})
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    skipped = fusion.report.skipped
    assert skipped
    assert set(skipped.values()) == {"it is a cross-attention"}
    assert not set(skipped) & set(fusion.blocks)
    assert predict(unet.eval()).shape == (2, 4, 8, 8)
    everywhere = UNet2DConditionModel(
        **dict(tiny_sd_unet().config) | {"only_cross_attention": True, "mid_block_type": None}
    )
    with pytest.raises(ValueError, match="no self-attention"):
        DeltaConvFusion.convert(everywhere, kernel_size=3)


def test_blocks_cannot_run_without_a_grid() -> None:
    unet = tiny_sd_unet()
    DeltaConvFusion.convert(unet, kernel_size=3)
    block = unet.mid_block.attentions[0].transformer_blocks[0]
    with pytest.raises(RuntimeError, match="called without its grid"):
        block(torch.zeros(1, 16, 32), encoder_hidden_states=torch.zeros(1, 3, TEXT_WIDTH))
    with pytest.raises(ValueError, match="expected 4 x 4 = 16 tokens, got 8"):
        block.attn1(torch.zeros(1, 8, 32), deltaconv_route=(4, 4, "student"))
    with pytest.raises(ValueError, match="attention_mask"):
        block.attn1(torch.zeros(1, 16, 32), attention_mask=torch.zeros(1, 1, 16), deltaconv_route=(4, 4, "student"))
