"""Training of a converted denoiser as a whole: every trainable parameter gets a gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from deltaconv_distill import DeltaConvFusion
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from tiny_pipelines import denoiser_inputs, predict, tiny_sd_unet


def trainable(denoiser: torch.nn.Module) -> set[str]:
    return {name for name, parameter in denoiser.named_parameters() if parameter.requires_grad}


def test_replaced_attentions_are_frozen_while_attached() -> None:
    unet = tiny_sd_unet()
    unet.conv_in.requires_grad_(False)
    before = trainable(unet)
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    attached = trainable(unet)
    replaced = {name for name in before if ".attn1." in name}
    blocks = {f"{layer}.deltaconv.{key}" for layer, block in fusion.blocks.items() for key in block.state_dict()}
    assert replaced
    assert attached == (before - replaced) | blocks
    predict(unet).square().mean().backward()
    assert {name for name, parameter in unet.named_parameters() if parameter.grad is not None} == attached
    fusion.detach()
    assert trainable(unet) == before


@pytest.mark.parametrize("flag", [True, False])
def test_requires_grad_of_the_whole_model(flag: bool) -> None:
    unet = tiny_sd_unet()
    names = {name for name, _ in unet.named_parameters()}
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    assert unet.requires_grad_(flag) is unet
    assert {name for name in trainable(unet) if ".deltaconv." not in name} == (
        {name for name in names if ".attn1." not in name} if flag else set()
    )
    fusion.detach()
    assert trainable(unet) == (names if flag else set())


def test_adapters_on_replaced_attentions_are_frozen_too() -> None:
    unet = tiny_sd_unet().requires_grad_(False)
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    fusion.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    names = {name for name, _ in unet.named_parameters() if ".lora_" in name}
    assert trainable(unet) == {name for name in names if ".attn1." not in name}
    fusion.detach()
    assert trainable(unet) == names


def test_ddp_runs_several_iterations(tmp_path: Path) -> None:
    """It waits for a gradient of every trainable parameter, and fails in the second iteration where one has none."""
    unet = tiny_sd_unet().train()
    DeltaConvFusion.convert(unet, kernel_size=3)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(unet)
        for step in range(3):
            parallel(**denoiser_inputs(unet, 8, 8, seed=step)).sample.square().mean().backward()
    finally:
        dist.destroy_process_group()


def test_self_attentions_of_no_known_kind_are_listed() -> None:
    blocks = {"down_block_types": ("CrossAttnDownBlock2D", "KCrossAttnDownBlock2D"), "block_out_channels": (32, 64)}
    fusion = DeltaConvFusion.convert(UNet2DConditionModel(**dict(tiny_sd_unet().config) | blocks), kernel_size=3)
    reason = "it is not part of a BasicTransformerBlock"
    assert fusion.report.skipped == {"down_blocks.1.attentions.0.attn1": reason}
    assert f"skipped down_blocks.1.attentions.0.attn1: {reason}" in str(fusion.report)


def test_layers_of_a_model_and_a_choice_among_them() -> None:
    unet = tiny_sd_unet()
    layers = DeltaConvFusion.layers_of(unet)
    assert len(layers) == 7
    assert layers[0] == "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    fusion = DeltaConvFusion.convert(unet, kernel_size=3, only=layers[:2], exclude="down_blocks.0.*")
    assert list(fusion.blocks) == layers[1:2]
    assert list(fusion.report.excluded) == [layers[0], *layers[2:]]
    fusion.detach()
    with pytest.raises(ValueError, match=r"only: 'down_block\.\*' fits none of the self-attentions"):
        DeltaConvFusion.convert(unet, kernel_size=3, only="down_block.*")
    with pytest.raises(ValueError, match="exclude: expected to leave a self-attention to replace"):
        DeltaConvFusion.convert(unet, kernel_size=3, only=layers[:1], exclude=layers[0])
