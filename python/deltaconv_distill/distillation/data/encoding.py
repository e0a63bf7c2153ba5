"""Images and captions as the denoiser sees them, by the pipeline's own frozen VAE and text encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FluxPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)

PIXART = (PixArtSigmaPipeline, PixArtAlphaPipeline)
FLOW_MATCHING = (StableDiffusion3Pipeline, FluxPipeline)


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
    """Encodes with the VAE, tokenizers and text encoders of a Stable Diffusion, SDXL, PixArt, SD3 or FLUX.1 pipeline.

    Raises:
        TypeError: the pipeline is of another family.
    """

    def __init__(self, pipe: DiffusionPipeline) -> None:
        supported = (StableDiffusionPipeline, StableDiffusionXLPipeline, *PIXART, *FLOW_MATCHING)
        if not isinstance(pipe, supported):
            names = ", ".join(kind.__name__ for kind in supported)
            raise TypeError(f"pipe: expected one of {names}, got {type(pipe).__name__}")
        self.pipe: Any = pipe

    @torch.no_grad()
    def moments(self, images: torch.Tensor) -> LatentMoments:
        """[B, 3, H, W] images in [-1, 1] -> their latents' moments, float32."""
        vae = self.pipe.vae
        posterior = vae.encode(images.to(vae.device, vae.dtype)).latent_dist
        shift, scale = (torch.tensor(values, device=vae.device).view(1, -1, 1, 1) for values in self.latent_scaling)
        return LatentMoments((posterior.mean.float() - shift) * scale, posterior.std.float() * scale)

    @property
    def latent_scaling(self) -> tuple[list[float], list[float]]:
        """What is taken off the VAE's latents, and then multiplied with them: one value, or one for each channel.

        It is what the pipeline undoes before it decodes; of these pipelines only SDXL's reads `latents_mean` and
        `latents_std` (Playground v2.5), and only those of flow matching `shift_factor`.
        """
        config = self.pipe.vae.config
        if isinstance(self.pipe, FLOW_MATCHING):
            return [config.get("shift_factor") or 0.0], [config.scaling_factor]
        scale, mean, std = (config.get(name) for name in ("scaling_factor", "latents_mean", "latents_std"))
        if not isinstance(self.pipe, StableDiffusionXLPipeline) or mean is None or std is None:
            return [0.0], [scale]
        return list(mean), [scale / value for value in std]

    @torch.no_grad()
    def conditioning(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """Captions -> the denoiser's keyword arguments, each [B, …].

        Those that go into `added_cond_kwargs` stand beside the others; `DenoisingTask` sorts them.
        """
        options = {"device": self.pipe.text_encoder.device, "num_images_per_prompt": 1}
        if isinstance(self.pipe, FluxPipeline):
            embeddings, pooled, _ = self.pipe.encode_prompt(list(captions), None, **options)
            return {"encoder_hidden_states": embeddings, "pooled_projections": pooled}
        options["do_classifier_free_guidance"] = False
        if isinstance(self.pipe, StableDiffusion3Pipeline):
            embeddings, _, pooled, _ = self.pipe.encode_prompt(list(captions), None, None, **options)
            return {"encoder_hidden_states": embeddings, "pooled_projections": pooled}
        if isinstance(self.pipe, StableDiffusionPipeline):
            return {"encoder_hidden_states": self.pipe.encode_prompt(list(captions), **options)[0]}
        if isinstance(self.pipe, StableDiffusionXLPipeline):
            embeddings, _, pooled, _ = self.pipe.encode_prompt(list(captions), **options)
            return {"encoder_hidden_states": embeddings, "text_embeds": pooled}
        embeddings, mask, _, _ = self.pipe.encode_prompt(list(captions), **options)
        return {"encoder_hidden_states": embeddings, "encoder_attention_mask": mask}

    @property
    def uses_geometry(self) -> bool:
        """Whether the denoiser is told the images' sizes."""
        return bool(self.geometry([(1,) * 6]))

    def geometry(self, framings: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """What the denoiser is told of the images' sizes; empty for a model that is not.

        Args:
            framings: per image (original height, width, top and left of the crop, target height, width) in pixels.
        """
        sizes = torch.tensor([list(framing) for framing in framings], dtype=torch.float32)
        if isinstance(self.pipe, StableDiffusionXLPipeline):
            return {"time_ids": sizes}
        if isinstance(self.pipe, PIXART) and self.pipe.transformer.use_additional_conditions:
            return {"resolution": sizes[:, 4:], "aspect_ratio": sizes[:, 4:5] / sizes[:, 5:]}
        return {}
