"""Images and captions as the denoiser sees them, by the pipeline's own frozen VAE and text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class LatentMoments:
    """Mean and standard deviation, [B, C, h, w] each, of the scaled latents of a batch of images."""

    mean: torch.Tensor
    std: torch.Tensor

    def __getitem__(self, indices: torch.Tensor) -> LatentMoments:
        return LatentMoments(self.mean[indices], self.std[indices])

    def sample(self, noise: torch.Tensor) -> torch.Tensor:
        return self.mean + self.std * noise


class PipelineEncoder:
    """Encodes with the VAE, tokenizer and text encoder of a Stable Diffusion pipeline.

    Raises:
        TypeError: the pipeline is of another family.
    """

    def __init__(self, pipe: StableDiffusionPipeline) -> None:
        if not isinstance(pipe, StableDiffusionPipeline):
            raise TypeError(f"pipe: expected a StableDiffusionPipeline, got {type(pipe).__name__}")
        self.pipe = pipe

    @torch.no_grad()
    def moments(self, images: torch.Tensor) -> LatentMoments:
        """[B, 3, H, W] images in [-1, 1] -> their latents' moments."""
        vae = self.pipe.vae
        posterior = vae.encode(images.to(vae.device, vae.dtype)).latent_dist
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        scale = vae.config.scaling_factor
        return LatentMoments((posterior.mean - shift) * scale, posterior.std * scale)

    @torch.no_grad()
    def conditioning(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """Captions -> the denoiser's keyword arguments, each [B, …]."""
        embeddings, _ = self.pipe.encode_prompt(
            list(captions), self.pipe.text_encoder.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"encoder_hidden_states": embeddings}
