"""Running a text-to-image pipeline the same way several times over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image

TIMESTEPS = (900.0, 500.0, 100.0)


@dataclass(frozen=True)
class Generation:
    """What is generated, and which of its steps count.

    prompts, seeds: each prompt with each seed, one image at a time; timesteps: of the noise schedule, 1000 (noise) to
    0 (image), of which the nearest ones in the run are meant; num_inference_steps: of each image; options: of the
    pipeline, such as guidance_scale, height and width in pixels.
    """

    prompts: Sequence[str]
    seeds: Sequence[int] = (0,)
    timesteps: Sequence[float] = TIMESTEPS
    num_inference_steps: int = 20
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("prompts", "seeds", "timesteps"):
            values = getattr(self, name)
            if isinstance(values, str) or not len(values):
                raise ValueError(f"{name}: expected a sequence of at least one, got {values!r}")
        if self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps: expected a positive number, got {self.num_inference_steps}")

    def images(self, pipe: DiffusionPipeline) -> Iterator[tuple[str, Image.Image]]:
        """Each prompt with its image."""
        for prompt in self.prompts:
            for seed in self.seeds:
                generator = torch.Generator().manual_seed(seed)
                steps = self.num_inference_steps
                output = pipe(prompt, num_inference_steps=steps, generator=generator, **self.options)
                yield prompt, output.images[0]

    def counts(self, pipe: DiffusionPipeline, timestep: int) -> bool:
        """Whether a timestep of the run in progress is one of those that count."""
        schedule = pipe.scheduler.timesteps.float().cpu()
        nearest = [schedule[(schedule - wanted).abs().argmin()].item() for wanted in self.timesteps]
        return timestep in map(round, nearest)
