"""The endless stream of training examples, each with its noise, timestep and caption dropout.

Everything random about an example is a function of the run's seed and the example's position in the stream, so a run
resumes exactly from its position alone, and splitting a batch among processes changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from .data import Examples

# First word of a seed sequence: keeps the draws of an epoch's order apart from those of an example.
_ORDER, _EXAMPLE = 0, 1


@dataclass(frozen=True)
class Batch:
    """latents, noise: [B, C, h, w]; timesteps: [B] int64; conditioning: the denoiser's keyword arguments."""

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    conditioning: dict[str, torch.Tensor]

    def to(self, device: torch.device) -> Batch:
        moved = {name: value.to(device) for name, value in self.conditioning.items()}
        return Batch(self.latents.to(device), self.noise.to(device), self.timesteps.to(device), moved)


class ExampleStream:
    """Shuffled epochs of `examples` without end; `batch(position)` holds `batch_size` of them from there on."""

    def __init__(
        self, examples: Examples, seed: int, batch_size: int, num_timesteps: int, proportion_empty_prompts: float
    ) -> None:
        self.examples = examples
        self.seed = seed
        self.batch_size = batch_size
        self.num_timesteps = num_timesteps
        self.proportion_empty_prompts = proportion_empty_prompts
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def batch(self, position: int) -> Batch:
        positions = range(position, position + self.batch_size)
        indices = [self.index(p) for p in positions]
        moments = self.examples.moments(indices)
        draws = [self._draw(p, moments.mean.shape[1:]) for p in positions]
        posterior, noise, timesteps, empty = (list(column) for column in zip(*draws, strict=True))
        captions = ["" if drop else self.examples.captions[i] for i, drop in zip(indices, empty, strict=True)]
        return Batch(
            latents=moments.sample(torch.stack(posterior).to(moments.mean)),
            noise=torch.stack(noise).to(moments.mean),
            timesteps=torch.stack(timesteps).to(moments.mean.device),
            conditioning=self.examples.conditioning(captions),
        )

    def index(self, position: int) -> int:
        """Which example stands at a position."""
        epoch, offset = divmod(position, len(self.examples))
        return int(self._order(epoch)[offset])

    def _shuffle(self, epoch: int) -> torch.Tensor:
        return torch.randperm(len(self.examples), generator=_generator(self.seed, _ORDER, epoch))

    def _draw(self, position: int, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]:
        generator = _generator(self.seed, _EXAMPLE, position)
        posterior = torch.randn(shape, generator=generator)
        noise = torch.randn(shape, generator=generator)
        timestep = torch.randint(self.num_timesteps, (), generator=generator)
        empty = torch.rand((), generator=generator).item() < self.proportion_empty_prompts
        return posterior, noise, timestep, empty


def _generator(*words: int) -> torch.Generator:
    seed = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed))
