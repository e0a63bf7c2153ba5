"""The parts of the embedded teachers: pipelines shaped as Stable Diffusion 1 and 3, small enough for CPU cores."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import torch
from deltaconv_distill.embedded.joint_teacher import PipelineWithoutT5
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

LATENT = 16  # latents are LATENT x LATENT for images twice that
TEXT_WIDTH = 96
TOKENS = 16
VOCABULARY = 1400
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


def make_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges come from the captions, so that most words are one token each."""
    characters = sorted(set("".join(captions)) - {" "})
    clip = CLIPTokenizer().backend_tokenizer
    tokenizer = Tokenizer(BPE(unk_token=EOS, end_of_word_suffix="</w>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS],
        initial_alphabet=characters,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    # Each character is also shown as a word of its own: any text in these characters then has a spelling.
    tokenizer.train_from_iterator([*captions, " ".join(characters)], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=TOKENS)


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def make_vae() -> AutoencoderKL:
    """32x32x3 <-> 16x16x4, convolutions only."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 48),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=2 * LATENT,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def make_unet() -> UNet2DConditionModel:
    """Self-attention at 16x16 (64 channels) and 8x8 (128), few ResNet blocks: attention has work to do."""
    return UNet2DConditionModel(
        sample_size=LATENT,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(2, 4),  # diffusers reads this as the number of heads: 32 channels each
    )


def make_noise_scheduler() -> DDPMScheduler:
    return DDPMScheduler(**NOISE_SCHEDULE, clip_sample=False)


def make_pipeline(
    vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel
) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(**NOISE_SCHEDULE, steps_offset=1, timestep_spacing="leading"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


JOINT_WIDTH = 128  # of the transformer, of its text (both encoders' side by side), and of both pooled vectors
JOINT_LAYERS = 7
LARGEST_GRID = 32  # tokens along a side that have a position: pictures of up to 128 x 128


def make_joint_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """One of the two encoders of a Stable Diffusion 3 pipeline, half as wide as its transformer."""
    width = JOINT_WIDTH // 2
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=width // 2,
            projection_dim=width,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def make_transformer() -> SD3Transformer2DModel:
    """Stable Diffusion 3's transformer on 8x8 tokens of 2x2 latents; every block starts as the identity."""
    transformer = SD3Transformer2DModel(
        sample_size=LATENT,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=JOINT_LAYERS,
        attention_head_dim=32,
        num_attention_heads=JOINT_WIDTH // 32,
        joint_attention_dim=JOINT_WIDTH,
        caption_projection_dim=JOINT_WIDTH,
        pooled_projection_dim=JOINT_WIDTH,
        pos_embed_max_size=LARGEST_GRID,
        qk_norm="rms_norm",
    )
    # As DiTs are trained (adaLN-Zero, arXiv 2212.09748); diffusers, which loads trained weights, leaves it out.
    modulations = [
        norm.linear for block in transformer.transformer_blocks for norm in (block.norm1, block.norm1_context)
    ]
    for linear in (*modulations, transformer.norm_out.linear, transformer.proj_out):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    nn.init.normal_(transformer.time_text_embed.timestep_embedder.linear_1.weight, std=0.02)
    nn.init.normal_(transformer.time_text_embed.timestep_embedder.linear_2.weight, std=0.02)
    return transformer


def make_joint_pipeline(
    vae: AutoencoderKL,
    text_encoders: Sequence[CLIPTextModelWithProjection],
    tokenizer: CLIPTokenizer,
    transformer: SD3Transformer2DModel,
) -> PipelineWithoutT5:
    return PipelineWithoutT5(
        vae=vae,
        text_encoder=text_encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=text_encoders[1],
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0),
    )


def encode_joint_text(encoders: Iterable[CLIPTextModelWithProjection], ids: Tensor) -> tuple[Tensor, Tensor]:
    """What the pipeline's `encode_prompt` gives with max_sequence_length=0: [B, TOKENS, C] of texts, and [B, C].

    ids: [B, TOKENS].
    """
    outputs = [encoder(ids, output_hidden_states=True) for encoder in encoders]
    tokens = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return tokens, torch.cat([output.text_embeds for output in outputs], dim=-1)
