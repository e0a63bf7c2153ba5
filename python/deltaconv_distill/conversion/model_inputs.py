"""Inputs for one forward of a denoiser of any supported class: for counting, for estimates of memory and for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import (
    AuraFlowTransformer2DModel,
    ChromaTransformer2DModel,
    CogView4Transformer2DModel,
    ControlNetModel,
    DiTTransformer2DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    I2VGenXLUNet,
    Kandinsky3UNet,
    LatteTransformer3DModel,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    ModelMixin,
    PixArtTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableCascadeUNet,
    Transformer2DModel,
    UNet2DModel,
    UNet3DConditionModel,
    UNetMotionModel,
    UNetSpatioTemporalConditionModel,
    ZImageTransformer2DModel,
)
from diffusers.models.embeddings import get_2d_rotary_pos_embed, get_2d_rotary_pos_embed_lumina
from torch import Tensor

TEXT_TOKENS = 77
# Of joint attention, as the pipelines have them: CLIP's 77 and T5's 256; T5's 512; 512; at most 512; at most 1024; 256;
# 512.
JOINT_TEXT_TOKENS = {
    "SD3Transformer2DModel": 333,
    "FluxTransformer2DModel": 512,
    "Flux2Transformer2DModel": 512,
    "QwenImageTransformer2DModel": 512,
    "CogView4Transformer2DModel": 1024,
    "AuraFlowTransformer2DModel": 256,
    "Lumina2Transformer2DModel": 256,
    "ZImageTransformer2DModel": 512,
    "ChromaTransformer2DModel": 512,
}
PACKED_WITH_IDS = (FluxTransformer2DModel, Flux2Transformer2DModel, ChromaTransformer2DModel)
OF_FRAMES = (UNetMotionModel, UNet3DConditionModel, LatteTransformer3DModel)  # their samples are [B, C, frames, H, W]


def text_tokens_of(denoiser: ModelMixin) -> int:
    """Text tokens of a prompt in the pipelines of such a denoiser, as its attentions see them."""
    config: Any = denoiser.config
    if config.get("encoder_hid_dim_type") == "image_proj":  # Kandinsky 2.2 is told an image, in so many tokens
        return denoiser.get_submodule("encoder_hid_proj").num_image_text_embeds
    if isinstance(denoiser, StableCascadeUNet):
        return (TEXT_TOKENS if config.clip_text_in_channels else 0) + _pooled_tokens(denoiser)
    return JOINT_TEXT_TOKENS.get(type(denoiser).__name__, TEXT_TOKENS)


class CountedOnes(Tensor):
    """Ones, [B, n], without data: how many there are in a row can be read all the same."""

    def sum(self, *args: Any, **options: Any) -> Tensor:
        return torch.full(self.shape[:1], self.shape[1])


def _readable_ones(batch: int, tokens: int, device: torch.device) -> Tensor:
    """A mask [batch, tokens] whose sums Lumina 2 reads, on the meta device too."""
    ones = torch.ones(batch, tokens, dtype=torch.bool, device=device)
    return ones.as_subclass(CountedOnes) if ones.is_meta else ones


def _pooled_tokens(denoiser: StableCascadeUNet) -> int:
    """Of Stable Cascade's text taken as a whole, and, where it has text tokens beside it, of an image."""
    config: Any = denoiser.config
    return config.clip_seq * (2 if config.clip_text_in_channels else 1)


def random_inputs(
    denoiser: ModelMixin, height: int, width: int, batch: int = 1, text_tokens: int | None = None, frames: int = 1
) -> dict[str, Any]:
    """Keyword arguments for one forward of a denoiser on `batch` latents of height x width, or videos of `frames`.

    Unless given, `text_tokens` are as many as `text_tokens_of` says."""
    text_tokens = text_tokens or text_tokens_of(denoiser)
    options: dict[str, Any] = {"device": denoiser.device, "dtype": denoiser.dtype}
    config = denoiser.config

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, **options)

    inputs: dict[str, Any] = {"timestep": torch.full((batch,), 500, device=denoiser.device)}
    latents = noise(batch, config.in_channels, height, width)
    if isinstance(denoiser, ZImageTransformer2DModel):
        return {
            "x": list(latents[:, :, None]),
            "t": torch.full((batch,), 0.5, **options),
            "cap_feats": [noise(text_tokens, config.cap_feat_dim) for _ in range(batch)],
        }
    if isinstance(denoiser, StableCascadeUNet):
        return _of_stable_cascade(denoiser, latents, text_tokens)
    if isinstance(denoiser, Lumina2Transformer2DModel):
        return {
            "hidden_states": latents,
            "timestep": torch.full((batch,), 0.5, **options),
            "encoder_hidden_states": noise(batch, text_tokens, config.cap_feat_dim),
            "encoder_attention_mask": _readable_ones(batch, text_tokens, denoiser.device),
        }
    if isinstance(denoiser, LuminaNextDiT2DModel):
        rows, columns = height // config.patch_size, width // config.patch_size
        return {
            "hidden_states": latents,
            "timestep": torch.full((batch,), 0.5, **options),
            "encoder_hidden_states": noise(batch, text_tokens, config.cross_attention_dim),
            "encoder_mask": torch.ones(batch, text_tokens, device=denoiser.device),
            "image_rotary_emb": get_2d_rotary_pos_embed_lumina(
                config.hidden_size // config.num_attention_heads, rows, columns
            ),
            "cross_attention_kwargs": {},
        }
    if isinstance(denoiser, HunyuanDiT2DModel):
        return _of_hunyuan_dit(denoiser, latents)
    if isinstance(denoiser, AuraFlowTransformer2DModel):
        return {
            "hidden_states": latents,
            "encoder_hidden_states": noise(batch, text_tokens, config.joint_attention_dim),
            "timestep": torch.full((batch,), 0.5, **options),
        }
    if isinstance(denoiser, (SD3Transformer2DModel, *PACKED_WITH_IDS)):
        inputs["encoder_hidden_states"] = noise(batch, text_tokens, config.joint_attention_dim)
    if isinstance(denoiser, (SD3Transformer2DModel, FluxTransformer2DModel)):
        inputs["pooled_projections"] = noise(batch, config.pooled_projection_dim)
    if isinstance(denoiser, CogView4Transformer2DModel):
        size = torch.tensor([8.0 * height, 8.0 * width]).to(**options).expand(batch, 2)
        inputs["encoder_hidden_states"] = noise(batch, text_tokens, config.text_embed_dim)
        inputs |= {"original_size": size, "target_size": size, "crop_coords": torch.zeros(batch, 2, **options)}
        return inputs | {"hidden_states": latents}
    if isinstance(denoiser, QwenImageTransformer2DModel):
        rows, columns = -(-height // 2), -(-width // 2)
        return {
            "hidden_states": noise(batch, rows * columns, config.in_channels),
            "encoder_hidden_states": noise(batch, text_tokens, config.joint_attention_dim),
            "timestep": torch.full((batch,), 0.5, **options),
            "img_shapes": [[(1, rows, columns)]] * batch,
        }
    if isinstance(denoiser, SD3Transformer2DModel):
        return inputs | {"hidden_states": latents}
    if isinstance(denoiser, PACKED_WITH_IDS):
        rows, columns = -(-height // 2), -(-width // 2)
        axes = len(config.axes_dims_rope)
        inputs["img_ids"] = torch.zeros(rows * columns, axes)
        inputs["img_ids"][:, 1:3] = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        inputs["img_ids"] = inputs["img_ids"].to(denoiser.device)
        inputs["txt_ids"] = torch.zeros(text_tokens, axes, device=denoiser.device)
        inputs["timestep"] = torch.full((batch,), 0.5, **options)
        if config.get("guidance_embeds"):
            inputs["guidance"] = torch.full((batch,), 3.5, **options)
        return inputs | {"hidden_states": noise(batch, rows * columns, config.in_channels)}
    if isinstance(denoiser, (DiTTransformer2DModel, Transformer2DModel)):
        labels = torch.zeros(batch, dtype=torch.long, device=denoiser.device)
        return inputs | {"hidden_states": latents, "class_labels": labels}
    if isinstance(denoiser, UNet2DModel):
        if config.num_class_embeds is not None:
            inputs["class_labels"] = torch.zeros(batch, dtype=torch.long, device=denoiser.device)
        return inputs | {"sample": latents}
    if isinstance(denoiser, I2VGenXLUNet):
        return inputs | {
            "sample": noise(batch, config.in_channels, frames, height, width),
            "fps": torch.full((batch,), 16, device=denoiser.device),
            "image_latents": noise(batch, config.in_channels, frames, height, width),
            "image_embeddings": noise(batch, config.cross_attention_dim),
            "encoder_hidden_states": noise(batch, text_tokens, config.cross_attention_dim),
        }
    if isinstance(denoiser, Kandinsky3UNet):
        return inputs | {
            "sample": latents,
            "encoder_hidden_states": noise(batch, text_tokens, config.encoder_hid_dim),
            "encoder_attention_mask": torch.ones(batch, text_tokens, device=denoiser.device),
        }
    if isinstance(denoiser, UNetSpatioTemporalConditionModel):
        return inputs | {
            "sample": noise(batch, frames, config.in_channels, height, width),
            "encoder_hidden_states": noise(batch, 1, config.cross_attention_dim),  # of the image to begin with
            "added_time_ids": torch.zeros(batch, 3, **options),
        }
    text_width = config.get("caption_channels") or config.cross_attention_dim
    if config.get("encoder_hid_dim_type") == "text_proj":  # DeepFloyd IF
        text_width = config.encoder_hid_dim
    texts = batch * frames if isinstance(denoiser, UNetMotionModel) else batch  # AnimateDiff's are by frame
    inputs["encoder_hidden_states"] = noise(texts, text_tokens, text_width)
    if isinstance(denoiser, PixArtTransformer2DModel):
        conditions = {"resolution": None, "aspect_ratio": None}
        return inputs | {"hidden_states": latents, "added_cond_kwargs": conditions}
    if isinstance(denoiser, OF_FRAMES):
        name = "hidden_states" if isinstance(denoiser, LatteTransformer3DModel) else "sample"
        return inputs | {name: noise(batch, config.in_channels, frames, height, width)}
    if isinstance(denoiser, ControlNetModel):
        scale = 2 ** (len(config.conditioning_embedding_out_channels) - 1)  # of the picture, in pixels of the latents
        inputs["controlnet_cond"] = noise(batch, config.conditioning_channels, scale * height, scale * width)
    if config.get("encoder_hid_dim_type") == "image_proj":
        inputs["encoder_hidden_states"] = None
        inputs["added_cond_kwargs"] = {"image_embeds": noise(batch, config.encoder_hid_dim)}
    if config.addition_embed_type == "text_time":
        sizes = 6 * config.addition_time_embed_dim
        pooled = noise(batch, config.projection_class_embeddings_input_dim - sizes)
        inputs["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.zeros(batch, 6, **options)}
    return inputs | {"sample": latents}


def predict(denoiser: Any, inputs: Mapping[str, Any]) -> Tensor:
    """The prediction of a denoiser for its keyword arguments, [B, …]; Z-Image's is a list of examples."""
    prediction = denoiser(**{**inputs, "return_dict": False})[0]
    return torch.stack(prediction) if isinstance(prediction, list) else prediction


def _of_hunyuan_dit(denoiser: HunyuanDiT2DModel, latents: Tensor) -> dict[str, Any]:
    """Its texts are as long as its configuration says."""
    config, batch = denoiser.config, latents.shape[0]
    options: dict[str, Any] = {"device": latents.device, "dtype": latents.dtype}
    rows, columns = (side // config.patch_size for side in latents.shape[-2:])
    corners = ((0, 0), (rows, columns))
    rotary = get_2d_rotary_pos_embed(
        config.attention_head_dim, corners, (rows, columns), device=latents.device, output_type="pt"
    )
    inputs = {
        "hidden_states": latents,
        "timestep": torch.full((batch,), 500, **options),
        "encoder_hidden_states": torch.randn(batch, config.text_len, config.cross_attention_dim, **options),
        "text_embedding_mask": torch.ones(batch, config.text_len, **options),
        "encoder_hidden_states_t5": torch.randn(batch, config.text_len_t5, config.cross_attention_dim_t5, **options),
        "text_embedding_mask_t5": torch.ones(batch, config.text_len_t5, **options),
        "image_rotary_emb": rotary,
    }
    if config.use_style_cond_and_image_meta_size:
        inputs["image_meta_size"] = torch.zeros(batch, 6, **options)
        inputs["style"] = torch.zeros(batch, dtype=torch.long, device=latents.device)
    return inputs


def _of_stable_cascade(denoiser: StableCascadeUNet, latents: Tensor, text_tokens: int) -> dict[str, Any]:
    config, batch = denoiser.config, latents.shape[0]
    options: dict[str, Any] = {"device": latents.device, "dtype": latents.dtype}
    inputs = {
        "sample": latents,
        "timestep_ratio": torch.zeros(batch, **options),  # whose embedding 16 bits do not round
        "clip_text_pooled": torch.randn(batch, 1, config.clip_text_pooled_in_channels, **options),
    }
    if config.clip_text_in_channels:
        words = text_tokens - _pooled_tokens(denoiser)
        inputs["clip_text"] = torch.randn(batch, words, config.clip_text_in_channels, **options)
        inputs["clip_img"] = torch.randn(batch, 1, config.clip_image_in_channels, **options)
    if config.effnet_in_channels:
        inputs["effnet"] = torch.randn(batch, config.effnet_in_channels, 4, 4, **options)
    return inputs
