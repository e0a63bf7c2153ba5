"""Kernel sizes, presets, gates, the report."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.conversion import kernel_size_for_field
from deltaconv_distill.conversion.kernel_sizes import choose_kernel_sizes
from deltaconv_distill.conversion.known_models import KNOWN_MODELS
from deltaconv_distill.conversion.sites import find_sites
from deltaconv_distill.embedded.teacher import teacher_path
from diffusers import ControlNetModel, LatteTransformer3DModel, PixArtTransformer2DModel, UNet2DConditionModel
from tiny_pipelines import TEXT_WIDTH, predict, tiny_pixart_transformer, tiny_sd_unet
from torch.utils.flop_counter import FlopCounterMode

MID = "mid_block.attentions.0.transformer_blocks.0.attn1"

SD15, SD21, SDXL, PIXART = (KNOWN_MODELS[name].config for name in ("sd15", "sd21", "sdxl", "pixart-sigma"))

SD_SIZES = {
    "down_blocks.0": 7,
    "down_blocks.1": 9,
    "down_blocks.2": 5,
    "mid_block": 3,
    "up_blocks.1": 5,
    "up_blocks.2": 9,
    "up_blocks.3": 11,
}
DOWN_AND_MID_SIZES = {part: k for part, k in SD_SIZES.items() if "up" not in part}
PIXART_SIZES = {"transformer_blocks": 13}
CONTROLNET = {key: value for key, value in SD15.items() if key != "sample_size"}
SDXL_SIZES = {"down_blocks.1": 9, "down_blocks.2": 7, "mid_block": 9, "up_blocks.0": 9, "up_blocks.1": 13}


@pytest.mark.parametrize(
    ("kind", "config", "preset", "expected", "layers"),
    [
        (UNet2DConditionModel, SD15, "SD1.5", SD_SIZES, 16),
        (UNet2DConditionModel, SD15 | {"in_channels": 9}, "SD1.5", SD_SIZES, 16),
        (UNet2DConditionModel, SD21, "SD2", SD_SIZES, 16),
        (ControlNetModel, CONTROLNET, "SD1.5", DOWN_AND_MID_SIZES, 7),
        (UNet2DConditionModel, SDXL, "SDXL", SDXL_SIZES, 70),
        (PixArtTransformer2DModel, PIXART, "PixArt", PIXART_SIZES, 28),
        (PixArtTransformer2DModel, PIXART | {"use_additional_conditions": True}, "PixArt", PIXART_SIZES, 28),
    ],
    ids=["sd15", "sd15-inpainting", "sd2", "sd15-controlnet", "sdxl", "pixart-sigma", "pixart-alpha"],
)
def test_presets_of_full_size_models(
    caplog: pytest.LogCaptureFixture,
    kind: type,
    config: dict[str, Any],
    preset: str,
    expected: dict[str, int],
    layers: int,
) -> None:
    """K, gate, gate scale, stages and inner width of every layer; the preset is named in the log and the report."""
    with torch.device("meta"):
        denoiser = kind(**config)
    with caplog.at_level(logging.INFO):
        fusion = DeltaConvFusion.convert(denoiser)
    assert len(fusion.blocks) == layers
    assert f"kernel sizes preset {preset}" in caplog.text
    assert f"kernel sizes preset {preset}" in str(fusion.report)
    parts = set()
    for layer, block in fusion.blocks.items():
        part = layer.split(".attentions.")[0] if ".attentions." in layer else "transformer_blocks"
        parts.add(part)
        assert block.kernel_size == expected[part], layer
        assert (block.factors, block.in_proj.out_features) == ((1, 2), block.dim // 2)
        if kind is PixArtTransformer2DModel:
            assert (block.gate, block.gate_scale) == ("sigmoid", 1.0)
        else:
            assert (block.gate, block.gate_scale) == ("scaled", math.sqrt(block.dim / 4))
    assert parts == set(expected)


def test_embedded_teacher_is_known() -> None:
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(teacher_path() / "unet"))
    sizes, origin = choose_kernel_sizes(unet, find_sites(unet).found, "auto", None)
    assert origin == "preset emoji"
    assert all(size == (5 if find_sites(unet).found[layer].stride == 2 else 9) for layer, size in sizes.items())


def test_a_preset_made_for_another_class_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Latte's spatial attentions have PixArt's widths, and nobody has measured them."""
    with init_empty_weights():
        latte = LatteTransformer3DModel(
            num_layers=28,
            num_attention_heads=16,
            attention_head_dim=72,
            patch_size=2,
            in_channels=4,
            sample_size=64,
            caption_channels=4096,
            norm_type="ada_norm_single",
            num_embeds_ada_norm=1000,
            video_length=16,
        )
    sizes, origin = choose_kernel_sizes(latte, find_sites(latte).found, "auto", None)
    assert set(sizes.values()) == {13}
    assert origin == "preset PixArt, made for a PixArtTransformer2DModel and not measured for a LatteTransformer3DModel"
    assert f"kernel_size: 'auto' takes {origin}" in caplog.text


def test_strides_of_sd15() -> None:
    with init_empty_weights():
        found = find_sites(UNet2DConditionModel(**SD15)).found
    strides = {name.split(".attentions.")[0]: site.stride for name, site in found.items()}
    assert strides == {
        "down_blocks.0": 1,
        "down_blocks.1": 2,
        "down_blocks.2": 4,
        "mid_block": 8,
        "up_blocks.1": 4,
        "up_blocks.2": 2,
        "up_blocks.3": 1,
    }


def test_unknown_model_asks_for_sizes() -> None:
    with pytest.raises(ValueError, match=r"'auto' knows SD1.5, .* but not this UNet2DConditionModel; .*profile"):
        DeltaConvFusion.convert(tiny_sd_unet())


def test_sizes_by_layer_and_exclusion() -> None:
    unet = tiny_sd_unet()
    names = list(find_sites(unet).found)
    sizes = {name: 3 + 2 * index for index, name in enumerate(names[2:])}
    fusion = DeltaConvFusion.convert(unet, kernel_size=sizes, exclude=names[:2])
    assert {name: block.kernel_size for name, block in fusion.blocks.items()} == sizes
    assert fusion.report.excluded == tuple(names[:2])
    assert predict(unet).shape == (2, 4, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 4}, "odd integers from 1 to 31, got 4 for down_blocks"),
        ({"kernel_size": 33}, "got 33"),
        ({"kernel_size": 3.0}, "got 3.0"),
        ({"kernel_size": "large"}, "'auto', 'profile', an odd integer, .* or a Profile, got 'large'"),
        ({"kernel_size": {MID: 3}}, r"missing \['down_blocks"),
        ({"kernel_size": {MID: 3, "mid": 5}, "exclude": ["down*", "up*"]}, r"unknown \['mid'\]"),
        ({"kernel_size": 3, "exclude": "middle*"}, "exclude: 'middle\\*' fits none"),
        ({"kernel_size": 3, "exclude": "*"}, "exclude: expected to leave"),
        ({"kernel_size": 3, "profile": {MID: 5}}, "profile: .* kernel_size='auto'"),
        ({"profile": {MID: 5}}, r"profile: .*missing"),
        ({"kernel_size": 3, "gate": "relu"}, "gate: expected one of"),
        ({"kernel_size": 3, "factors": ()}, "factors"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(map(str, value.values()))[:40],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    unet = tiny_sd_unet()
    with pytest.raises(ValueError, match=message):
        DeltaConvFusion.convert(unet, **arguments)
    assert DeltaConvFusion.attached_to(unet) is None


def test_profile_gives_sixty_percent_of_the_field() -> None:
    unet = tiny_sd_unet()
    profile = dict.fromkeys(find_sites(unet).found, 15.0) | {MID: 5.2}
    fusion = DeltaConvFusion.convert(unet, profile=profile)
    assert fusion.blocks[MID].kernel_size == 3
    assert {block.kernel_size for name, block in fusion.blocks.items() if name != MID} == {9}
    assert fusion.report.kernel_sizes_from == "from the profile"


@pytest.mark.parametrize(("field", "size"), [(1, 3), (5, 3), (8.4, 5), (15, 9), (20, 13), (21.6, 13), (100, 31)])
def test_kernel_size_for_field(field: float, size: int) -> None:
    assert kernel_size_for_field(field) == size


def test_default_gates_and_scales() -> None:
    unet = DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=3)
    assert {block.gate for block in unet.blocks.values()} == {"scaled"}
    assert {block.gate_scale for block in unet.blocks.values()} == {math.sqrt(8 / 2), math.sqrt(16 / 2)}
    pixart = DeltaConvFusion.convert(tiny_pixart_transformer(), kernel_size=3)
    assert {(block.gate, block.gate_scale) for block in pixart.blocks.values()} == {("sigmoid", 1.0)}
    chosen = DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=3, gate="sigmoid", factors=(1, 2, 4), expansion=1.0)
    block = chosen.blocks[MID]
    assert (block.gate, block.factors, block.weight.shape) == ("sigmoid", (1, 2, 4), (3, 3, 3, 32))


def test_report_counts_parameters(denoiser: torch.nn.Module) -> None:
    before = sum(parameter.numel() for parameter in denoiser.parameters())
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3)
    report = fusion.report
    attentions = [denoiser.get_submodule(name) for name in fusion.blocks]
    replaced = sum(
        p.numel() for attention in attentions for n, p in attention.named_parameters() if "deltaconv" not in n
    )
    assert report.parameters_before == before
    assert report.parameters_after == before - replaced + sum(p.numel() for p in fusion.parameters())
    assert all(name in str(report) for name in fusion.blocks)
    assert f"{report.parameters_after:,}" in str(report)


@torch.no_grad()
def test_report_flops_agree_with_torch() -> None:
    """Against torch's count of the attention, and of the block's projections and convolutions, on a 7 x 10 grid."""
    unet = tiny_sd_unet()
    fusion = DeltaConvFusion.convert(unet, kernel_size=5, factors=(1, 3))
    layer = next(layer for layer in fusion.report.layers if layer.name == MID)
    attention, tokens = unet.get_submodule(MID), torch.randn(1, 70, 32)
    assert layer.grid(13, 20) == (7, 10)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        attention(tokens, deltaconv_route=(7, 10, "teacher"))
    assert counter.get_total_flops() == layer.flops(13, 20).attention
    block = fusion.blocks[MID]
    with FlopCounterMode(display=False) as counter:
        block.pool_proj(block.out_proj(block.in_proj(tokens)).mean(1))
        for grid, weight in zip(((7, 10), (2, 3)), block.weight, strict=True):
            kernels = weight.permute(2, 0, 1).unsqueeze(1)
            torch.nn.functional.conv2d(torch.randn(1, 16, *grid), kernels, padding=2, groups=16)
    assert counter.get_total_flops() == layer.flops(13, 20).block


def test_report_at_other_sizes() -> None:
    unet = tiny_sd_unet()
    report = DeltaConvFusion.convert(unet, kernel_size=3).report
    assert report.sample_size == (8, 8)
    assert report.flops() == report.flops(8, 8)
    assert report.flops(64, 64).attention > 16 * report.flops(64, 64).block
    assert "at 64 x 32 latent pixels" in report.table(64, 32)
    assert TEXT_WIDTH not in {layer.stride for layer in report.layers}
