"""The endless stream of training examples, each with its noise, timestep and caption dropout.

Everything random about an example is a function of the run's seed and the example's position in the stream, so a run
resumes exactly from its position alone, and splitting a batch among processes changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from .data import Examples
from .encoding import LatentMoments

# First word of a seed sequence: keeps the draws of an epoch's order apart from those of an example.
ORDER, EXAMPLE = 0, 1


@dataclass(frozen=True)
class Batch:
    """latents, noise: [B, C, h, w]; timesteps: [B] int64; conditioning: the denoiser's, [B, …] each, by name."""

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    conditioning: dict[str, torch.Tensor]

    def to(self, device: torch.device) -> Batch:
        moved = {name: value.to(device) for name, value in self.conditioning.items()}
        return Batch(self.latents.to(device), self.noise.to(device), self.timesteps.to(device), moved)


@dataclass(frozen=True)
class Draws:
    """What chance adds to an example."""

    seed: int
    num_timesteps: int
    proportion_empty_prompts: float

    def at(self, position: int, shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]:
        """Noise of the latent's posterior, noise, timestep, and whether the caption is dropped."""
        generator = seeded_generator(self.seed, EXAMPLE, position)
        posterior = torch.randn(tuple(shape), generator=generator)
        noise = torch.randn(tuple(shape), generator=generator)
        timestep = torch.randint(self.num_timesteps, (), generator=generator)
        empty = torch.rand((), generator=generator).item() < self.proportion_empty_prompts
        return posterior, noise, timestep, empty


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


class ExampleStream:
    """Shuffled epochs of `examples` without end; `batch(position)` holds `batch_size` of them from there on.

    Examples in buckets are shuffled in groups of `batch_size` of one bucket; the last group of a bucket is filled up
    from its first. Batches then begin at multiples of `batch_size`.
    """

    def __init__(
        self, examples: Examples, seed: int, batch_size: int, num_timesteps: int, proportion_empty_prompts: float
    ) -> None:
        self.examples = examples
        self.seed = seed
        self.batch_size = batch_size
        self._draws = Draws(seed, num_timesteps, proportion_empty_prompts)
        self._order = lru_cache(maxsize=2)(self._shuffle)
        self._epoch_length = len(self._shuffle(0)) if examples.buckets is not None else len(examples)

    def batch(self, position: int) -> Batch:
        indices = self.indices(position)
        captions = [self.examples.captions[index] for index in indices]
        batch, kept = draw_batch(self._draws, position, self.examples.moments(indices), captions)
        conditioning = {**self.examples.conditioning(kept), **self.examples.geometry(indices)}
        return Batch(batch.latents, batch.noise, batch.timesteps, conditioning)

    def prefetch(self, position: int) -> None:
        """Announce that the batch at `position` is the next."""
        self.examples.prefetch(self.indices(position))

    def indices(self, position: int) -> list[int]:
        """Which examples are in the batch at a position."""
        return [self.index(p) for p in range(position, position + self.batch_size)]

    def index(self, position: int) -> int:
        """Which example stands at a position."""
        epoch, offset = divmod(position, self._epoch_length)
        return int(self._order(epoch)[offset])

    def state(self) -> dict[str, object]:
        """What the position alone does not tell: nothing."""
        return {}

    def load_state(self, state: dict[str, object]) -> None:
        """Counterpart of `state`."""

    def _shuffle(self, epoch: int) -> torch.Tensor:
        generator = seeded_generator(self.seed, ORDER, epoch)
        order = torch.randperm(len(self.examples), generator=generator)
        if self.examples.buckets is None:
            return order
        buckets = torch.as_tensor(self.examples.buckets)[order]
        groups = [
            group for bucket in buckets.unique() for group in _filled_groups(order[buckets == bucket], self.batch_size)
        ]
        return torch.cat([groups[index] for index in torch.randperm(len(groups), generator=generator)])


def seeded_generator(*words: int) -> torch.Generator:
    """A generator that depends on nothing but these words."""
    seed = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed))


def _filled_groups(indices: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Groups of `size`, the last one filled up by starting over."""
    missing = -len(indices) % size
    filler = indices.repeat(-(-missing // len(indices)))[:missing] if missing else indices[:0]
    return list(torch.cat([indices, filler]).split(size))
