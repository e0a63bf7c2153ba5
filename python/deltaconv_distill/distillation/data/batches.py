"""Batches of training examples, each example with its noise, timestep and caption dropout.

Everything random about an example is a function of the run's seed and the example's position in the stream, so a run
resumes exactly from its position alone, and splitting a batch among processes changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..flow_matching import FlowTimes
from .encoding import LatentMoments

# First word of a seed sequence: keeps one kind of draw apart from the others.
ORDER, EXAMPLE, MIRROR, OFFSET = 0, 1, 2, 3


@dataclass(frozen=True)
class Batch:
    """latents, noise: [B, C, h, w]; timesteps: [B] int64, of flow matching float32; conditioning: the denoiser's,
    [B, …] each, by name."""

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    conditioning: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.latents)

    def first(self, count: int) -> Batch:
        """Its first `count` examples, or all where there are no more."""
        kept = {name: value[:count] for name, value in self.conditioning.items()}
        return Batch(self.latents[:count], self.noise[:count], self.timesteps[:count], kept)

    def to(self, device: torch.device) -> Batch:
        moved = {name: value.to(device) for name, value in self.conditioning.items()}
        return Batch(self.latents.to(device), self.noise.to(device), self.timesteps.to(device), moved)


@dataclass(frozen=True)
class Draws:
    """What chance adds to an example.

    noise_offset: standard deviation of what is added to the noise of each whole channel.
    random_flip: half of the pictures are mirrored.
    flow_times: of flow matching, where timesteps come from; None: from 0 to num_timesteps - 1, all alike.
    """

    seed: int
    num_timesteps: int
    proportion_empty_prompts: float = 0.0
    noise_offset: float = 0.0
    random_flip: bool = False
    flow_times: FlowTimes | None = None

    def at(self, position: int, shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]:
        """Noise of the latent's posterior, noise, timestep, and whether the caption is dropped."""
        generator = seeded_generator(self.seed, EXAMPLE, position)
        posterior = torch.randn(tuple(shape), generator=generator)
        noise = torch.randn(tuple(shape), generator=generator)
        noise = noise + self._offset(position, shape[0])
        timestep = self._timestep(generator, shape)
        empty = torch.rand((), generator=generator).item() < self.proportion_empty_prompts
        return posterior, noise, timestep, empty

    def mirror(self, pixels: torch.Tensor, position: int) -> torch.Tensor:
        """[B, 3, H, W] pictures from `position` on, each turned left to right if chance says so."""
        if not self.random_flip:
            return pixels
        return torch.stack([self._mirrored(image, position + offset) for offset, image in enumerate(pixels)])

    def _mirrored(self, image: torch.Tensor, position: int) -> torch.Tensor:
        generator = seeded_generator(self.seed, MIRROR, position)
        return image.flip(-1) if torch.rand((), generator=generator).item() < 0.5 else image

    def _timestep(self, generator: torch.Generator, shape: Sequence[int]) -> torch.Tensor:
        if self.flow_times is None:
            return torch.randint(self.num_timesteps, (), generator=generator)
        return self.flow_times.draw(generator, shape[-2], shape[-1])

    def _offset(self, position: int, channels: int) -> torch.Tensor | float:
        """[C, 1, 1] added to the noise, which lets a model learn the picture's mean brightness; 0 unless asked for."""
        if not self.noise_offset:
            return 0.0
        generator = seeded_generator(self.seed, OFFSET, position)
        return self.noise_offset * torch.randn((channels, 1, 1), generator=generator)


def draw_batch(draws: Draws, position: int, moments: LatentMoments, captions: Sequence[str]) -> tuple[Batch, list[str]]:
    """A batch without conditioning, from `position` on, and the captions that remain after dropout."""
    drawn = [draws.at(position + offset, moments.mean.shape[1:]) for offset in range(len(captions))]
    posterior, noise, timesteps, empty = (list(column) for column in zip(*drawn, strict=True))
    kept = ["" if drop else caption for caption, drop in zip(captions, empty, strict=True)]
    batch = Batch(
        latents=moments.sample(torch.stack(posterior).to(moments.mean)),
        noise=torch.stack(noise).to(moments.mean),
        timesteps=torch.stack(timesteps).to(moments.mean.device),
        conditioning={},
    )
    return batch, kept


def seeded_generator(*words: int) -> torch.Generator:
    """A generator that depends on nothing but these words."""
    seed = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed))
