"""Tiny diffusers pipelines with random weights, made from configs and local tokenizers: no download, no network."""

from __future__ import annotations

import string
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

TEXT_WIDTH = 32
TEXT_LENGTH = 16  # tokens of a prompt
SAMPLE_SIZE = 8  # latent pixels; 16 image pixels


def tiny_sd_unet(seed: int = 0) -> UNet2DConditionModel:
    """Five self-attentions at two resolutions, as in SD1.5."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=SAMPLE_SIZE,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
    ).eval()


def tiny_sdxl_unet(seed: int = 0) -> UNet2DConditionModel:
    """Self-attention at the lower resolution only, one and two layers deep, linear projections, as in SDXL."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=SAMPLE_SIZE,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
        cross_attention_dim=2 * TEXT_WIDTH,
        norm_num_groups=8,
    ).eval()


def tiny_pixart_transformer(seed: int = 0) -> PixArtTransformer2DModel:
    """Two blocks of 16 channels on patches of 2 x 2."""
    torch.manual_seed(seed)
    return PixArtTransformer2DModel(
        sample_size=SAMPLE_SIZE,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=TEXT_WIDTH,
        cross_attention_dim=16,
        out_channels=8,
        use_additional_conditions=False,
    ).eval()


def tiny_controlnet(seed: int = 0) -> ControlNetModel:
    """A ControlNet for `tiny_sd_unet` whose output is not zero."""
    torch.manual_seed(seed)
    controlnet = ControlNetModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
        conditioning_embedding_out_channels=(8, 16),
    )
    for convolution in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        torch.nn.init.normal_(convolution.weight, std=0.1)
    return controlnet.eval()


DENOISERS = {
    "sd": tiny_sd_unet,
    "sdxl": tiny_sdxl_unet,
    "pixart": tiny_pixart_transformer,
    "controlnet": tiny_controlnet,
}


def denoiser_inputs(
    denoiser: torch.nn.Module, height: int, width: int, batch: int = 2, seed: int = 0
) -> dict[str, Any]:
    """Keyword arguments for one forward of a tiny denoiser on latents of height x width."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(denoiser.dtype)

    text_width = denoiser.config.get("caption_channels") or denoiser.config.cross_attention_dim
    inputs = {
        "timestep": torch.randint(1000, (batch,), generator=generator),
        "encoder_hidden_states": noise(batch, TEXT_LENGTH, text_width),
    }
    if isinstance(denoiser, PixArtTransformer2DModel):
        conditions = {"resolution": None, "aspect_ratio": None}
        return inputs | {"hidden_states": noise(batch, 4, height, width), "added_cond_kwargs": conditions}
    if isinstance(denoiser, ControlNetModel):
        inputs["controlnet_cond"] = noise(batch, 3, 2 * height, 2 * width)
    if denoiser.config.addition_embed_type == "text_time":
        sizes = torch.tensor([2.0 * height, 2.0 * width, 0, 0, 2.0 * height, 2.0 * width]).to(denoiser.dtype)
        inputs["added_cond_kwargs"] = {"text_embeds": noise(batch, TEXT_WIDTH), "time_ids": sizes.expand(batch, 6)}
    return inputs | {"sample": noise(batch, 4, height, width)}


def predict(denoiser: torch.nn.Module, height: int = 8, width: int = 8, **options: Any) -> torch.Tensor:
    """The prediction of a tiny denoiser for `denoiser_inputs`; of a ControlNet, its mid-block residual."""
    return denoiser(**denoiser_inputs(denoiser, height, width, **options), return_dict=False)[-1]


def tiny_sd(seed: int = 0) -> StableDiffusionPipeline:
    """Stable Diffusion for images of 16 x 16."""
    unet = tiny_sd_unet(seed)
    return StableDiffusionPipeline(
        unet=unet,
        vae=_vae(),
        text_encoder=CLIPTextModel(_clip_config()).eval(),
        tokenizer=_clip_tokenizer(),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tiny_sdxl(seed: int = 0) -> StableDiffusionXLPipeline:
    """Stable Diffusion XL for images of 16 x 16."""
    unet = tiny_sdxl_unet(seed)
    return StableDiffusionXLPipeline(
        unet=unet,
        vae=_vae(),
        text_encoder=CLIPTextModel(_clip_config()).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_clip_config()).eval(),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
        add_watermarker=False,
    )


def tiny_pixart(seed: int = 0) -> PixArtSigmaPipeline:
    """PixArt-Σ for images of 16 x 16."""
    transformer = tiny_pixart_transformer(seed)
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase]
    tokenizer = T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)
    text_encoder = T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=TEXT_WIDTH, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
    )
    return PixArtSigmaPipeline(
        transformer=transformer,
        vae=_vae(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        scheduler=DPMSolverMultistepScheduler(),
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    ).eval()


def _clip_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(_clip_vocabulary()),
        hidden_size=TEXT_WIDTH,
        intermediate_size=37,
        projection_dim=TEXT_WIDTH,
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def _clip_vocabulary() -> dict[str, int]:
    characters = string.ascii_lowercase + string.digits
    pieces = ["<|startoftext|>", "<|endoftext|>", *characters, *(f"{character}</w>" for character in characters)]
    return {piece: index for index, piece in enumerate(pieces)}


def _clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer(vocab=_clip_vocabulary(), merges=[], model_max_length=TEXT_LENGTH)
