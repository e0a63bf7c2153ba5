"""The parts of the embedded teacher: a Stable-Diffusion-shaped pipeline small enough to train on two CPU cores."""

from __future__ import annotations

import json
from collections.abc import Sequence

from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

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
