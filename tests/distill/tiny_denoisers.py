"""Tiny denoisers of the families beyond Stable Diffusion and PixArt, with random weights, made from configs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from deltaconv_distill.conversion.model_inputs import predict, random_inputs
from deltaconv_distill.conversion.sites import find_sites
from diffusers import (
    AuraFlowTransformer2DModel,
    ChromaTransformer2DModel,
    CogView4Transformer2DModel,
    DiTTransformer2DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    I2VGenXLUNet,
    Kandinsky3UNet,
    LatteTransformer3DModel,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableCascadeUNet,
    Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
    UNet3DConditionModel,
    UNetMotionModel,
    UNetSpatioTemporalConditionModel,
    ZImageTransformer2DModel,
)

TEXT_TOKENS = 5
FRAMES = 3
# Of Kandinsky 2.2 and DeepFloyd IF: attentions take keys and values from the text, and no text queries.
SIMPLE_CROSS_ATTENTION = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "attention_head_dim": 8,
    "encoder_hid_dim": 16,
    "norm_num_groups": 4,
}


def tiny_dit() -> DiTTransformer2DModel:
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        out_channels=8,  # of which half are a variance
        num_embeds_ada_norm=1000,
    )


def tiny_older_dit() -> Transformer2DModel:
    return Transformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        norm_num_groups=1,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )


def tiny_hunyuan_dit() -> HunyuanDiT2DModel:
    """Four blocks, the last of which takes an earlier one's output too."""
    return HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        sample_size=8,
        hidden_size=16,
        num_layers=4,
        mlp_ratio=2.0,
        cross_attention_dim=32,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        text_len=4,
        text_len_t5=4,
        use_style_cond_and_image_meta_size=False,
    )


def tiny_ddpm_unet() -> UNet2DModel:
    """Self-attention in a down, the mid and an up block; sums of output and residual are rescaled in the mid block."""
    return UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=4,
        mid_block_scale_factor=2**0.5,
    )


def tiny_mixed_unet() -> UNet2DConditionModel:
    """Both kinds of self-attention in one model."""
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("AttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "AttnUpBlock2D"),
        attention_head_dim=8,
        cross_attention_dim=16,
        norm_num_groups=4,
    )


def tiny_motion_unet() -> UNetMotionModel:
    return UNetMotionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        cross_attention_dim=16,
        num_attention_heads=2,
        motion_num_attention_heads=2,
        norm_num_groups=4,
    )


def tiny_video_unet() -> UNet3DConditionModel:
    return UNet3DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def tiny_spatio_temporal_unet() -> UNetSpatioTemporalConditionModel:
    """As Stable Video Diffusion's: its group norms have 32 groups whatever the config says."""
    return UNetSpatioTemporalConditionModel(
        sample_size=8,
        in_channels=8,
        layers_per_block=1,
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        cross_attention_dim=32,
        num_attention_heads=(2, 2),
    )


def tiny_i2vgen_xl() -> I2VGenXLUNet:
    return I2VGenXLUNet(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        num_attention_heads=2,
        norm_num_groups=4,
    )


def tiny_latte() -> LatteTransformer3DModel:
    return LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=16,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=32,
        video_length=FRAMES,
    )


def tiny_kandinsky3() -> Kandinsky3UNet:
    """Self-attention in two levels going down and in three going up, at a half, a quarter and the whole of its size."""
    return Kandinsky3UNet(
        time_embedding_dim=16,
        groups=2,
        attention_head_dim=8,
        layers_per_block=2,
        block_out_channels=(16, 16, 32),
        cross_attention_dim=16,
        encoder_hid_dim=16,
    )


def tiny_kandinsky22() -> UNet2DConditionModel:
    """Its text is an image's embedding, in 32 tokens, of which attentions take keys and values."""
    return UNet2DConditionModel(
        in_channels=4,
        out_channels=8,
        cross_attention_dim=12,
        encoder_hid_dim_type="image_proj",
        addition_embed_type="image",
        resnet_time_scale_shift="scale_shift",
        **SIMPLE_CROSS_ATTENTION,
    )


def tiny_stable_cascade() -> StableCascadeUNet:
    """Without the dropout of its configuration, which would act in training."""
    return StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        timestep_ratio_embedding_dim=8,
        conditioning_dim=12,
        block_out_channels=(8, 16),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        clip_text_in_channels=32,
        clip_text_pooled_in_channels=32,
        clip_image_in_channels=32,
        clip_seq=1,
        dropout=0.0,
    )


def tiny_lumina_next() -> LuminaNextDiT2DModel:
    """Two heads of queries share one of keys and values."""
    denoiser = LuminaNextDiT2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        cross_attention_dim=32,
    )
    torch.nn.init.zeros_(denoiser.pad_token)  # which nothing uses, and nothing has set
    return denoiser


def tiny_lumina2() -> Lumina2Transformer2DModel:
    """A refining and two joint blocks; two heads of queries share one of keys and values."""
    return Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(16, 16, 16),
        cap_feat_dim=32,
    )


def tiny_z_image() -> ZImageTransformer2DModel:
    """A refining and two joint blocks."""
    return ZImageTransformer2DModel(
        in_channels=4,
        dim=16,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=32,
        axes_dims=[4, 2, 2],
        axes_lens=[128, 16, 16],
    )


def tiny_sd3() -> SD3Transformer2DModel:
    """As 3.5-medium: normalised queries and keys, a first block with two attentions, a last one whose text ends."""
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=64,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )


def tiny_flux() -> FluxTransformer2DModel:
    """A double and a single block; guidance as an input."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )


def tiny_flux2() -> Flux2Transformer2DModel:
    """A double and a single block; guidance as an input; four positions for each token."""
    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
    )


def tiny_auraflow() -> AuraFlowTransformer2DModel:
    """A double and a single block, whose attentions count: their gates are small as they come."""
    denoiser = AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        out_channels=4,
        pos_embed_max_size=64,
    )
    for block in (*denoiser.joint_transformer_blocks, *denoiser.single_transformer_blocks):
        torch.nn.init.normal_(block.norm1.linear.weight, std=1.0)
    return denoiser


def tiny_chroma() -> ChromaTransformer2DModel:
    """A double and a single block."""
    return ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(2, 2, 4),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )


def tiny_qwen_image() -> QwenImageTransformer2DModel:
    return QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(2, 2, 4),
    )


def tiny_cogview4() -> CogView4Transformer2DModel:
    return CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=4,
        pos_embed_max_size=8,
        sample_size=8,
        rope_axes_dim=(8, 8),
    )


@dataclass(frozen=True)
class Tiny:
    """A family for the tests: how to make one, how many self-attentions it has, sizes in latent pixels that it takes,
    and the part of the names of linear layers that stay in use when it is converted."""

    make: Callable[[], Any]
    layers: int
    sizes: tuple[tuple[int, int], ...]
    stays: str


# square, not square, with an odd number of tokens: what the model itself can do
ANY = ((8, 8), (8, 12), (6, 10))
FOURTHS = ((8, 8), (8, 12), (12, 20))  # of these sides, an odd number of tokens
SQUARE = ((8, 8), (10, 10), (6, 6))  # DiT's own output is cut into a square

TINY = {
    "dit": Tiny(tiny_dit, 2, SQUARE, "ff.net.2"),
    "older-dit": Tiny(tiny_older_dit, 2, SQUARE, "ff.net.2"),
    "hunyuan-dit": Tiny(tiny_hunyuan_dit, 4, ANY, "attn2.to_v"),
    "lumina-next": Tiny(tiny_lumina_next, 2, ANY, "attn2.to_v"),
    "kandinsky2.2": Tiny(tiny_kandinsky22, 4, ANY, "attentions.0.to_q"),
    "cascade": Tiny(tiny_stable_cascade, 4, ANY, "attention.to_q"),
    "kandinsky3": Tiny(tiny_kandinsky3, 5, FOURTHS, "attention.to_v"),
    "ddpm": Tiny(tiny_ddpm_unet, 4, ANY, "time_emb_proj"),
    "sd3": Tiny(tiny_sd3, 3, ANY, "attn.to_q"),
    "flux": Tiny(tiny_flux, 2, ANY, "attn.to_q"),
    "flux2": Tiny(tiny_flux2, 2, ANY, "attn.to_qkv_mlp_proj"),
    "qwen": Tiny(tiny_qwen_image, 2, ANY, "attn.to_q"),
    "cogview4": Tiny(tiny_cogview4, 2, ANY, "attn1.to_q"),
    "lumina2": Tiny(tiny_lumina2, 3, ANY, "attn.to_q"),
    "z-image": Tiny(tiny_z_image, 3, ANY, "attention.to_q"),
    "auraflow": Tiny(tiny_auraflow, 2, ANY, "attn.to_q"),
    "chroma": Tiny(tiny_chroma, 2, ANY, "attn.to_q"),
    "mixed": Tiny(tiny_mixed_unet, 7, ANY, "attn2.to_v"),
    "motion": Tiny(tiny_motion_unet, 4, ANY, "attn2.to_v"),
    "video": Tiny(tiny_video_unet, 4, ANY, "attn2.to_v"),
    "svd": Tiny(tiny_spatio_temporal_unet, 4, ANY, "attn2.to_v"),
    "i2vgen-xl": Tiny(tiny_i2vgen_xl, 4, ANY, "attn2.to_v"),
    "latte": Tiny(tiny_latte, 2, ANY, "attn2.to_v"),
}


def make_tiny(name: str, seed: int = 0) -> Any:
    """With weights that matter: layers that models start at zero (last layers, gates) are random too.

    They are frozen as while a fusion is attached: torch's matmul rounds otherwise where weights can have gradients.
    """
    torch.manual_seed(seed)
    denoiser = TINY[name].make().eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    return denoiser


@torch.no_grad()
def zero_queries(denoiser: torch.nn.Module) -> None:
    """Let every self-attention that can be replaced weigh all its keys alike."""
    for site in find_sites(denoiser).found.values():
        layer, queries = site.input_layer, site.inner_dim  # which come first, where a layer makes more
        layer.weight[:queries].zero_()
        if layer.bias is not None:
            layer.bias[:queries].zero_()
        if getattr(site.attention.norm_q, "bias", None) is not None:
            site.attention.norm_q.bias.zero_()


def tiny_inputs(denoiser: torch.nn.Module, height: int, width: int, seed: int = 0) -> dict[str, Any]:
    torch.manual_seed(seed)
    return random_inputs(denoiser, height, width, batch=2, text_tokens=TEXT_TOKENS, frames=FRAMES)


def run(denoiser: torch.nn.Module, height: int = 8, width: int = 8, seed: int = 0) -> torch.Tensor:
    """The prediction for `tiny_inputs`."""
    return predict(denoiser, tiny_inputs(denoiser, height, width, seed))
