"""Tiny pipelines of flow matching with joint attention, with random weights: no download, no network."""

from __future__ import annotations

from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, StableDiffusion3Pipeline
from tiny_denoisers import make_tiny
from tiny_pipelines import tiny_pixart, tiny_sd, tiny_sdxl


def stable_diffusion_3() -> StableDiffusion3Pipeline:
    sdxl, pixart = tiny_sdxl(), tiny_pixart()
    sdxl.vae.register_to_config(shift_factor=0.0)
    return StableDiffusion3Pipeline(
        transformer=make_tiny("sd3"),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=sdxl.vae,
        text_encoder=type(sdxl.text_encoder_2)(sdxl.text_encoder_2.config).eval(),
        tokenizer=sdxl.tokenizer,
        text_encoder_2=sdxl.text_encoder_2,
        tokenizer_2=sdxl.tokenizer_2,
        text_encoder_3=pixart.text_encoder,
        tokenizer_3=pixart.tokenizer,
    )


def flux() -> FluxPipeline:
    sd, pixart = tiny_sd(), tiny_pixart()
    sd.vae.register_to_config(shift_factor=0.0)
    return FluxPipeline(
        transformer=make_tiny("flux"),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=sd.vae,
        text_encoder=sd.text_encoder,
        tokenizer=sd.tokenizer,
        text_encoder_2=pixart.text_encoder,
        tokenizer_2=pixart.tokenizer,
    )
