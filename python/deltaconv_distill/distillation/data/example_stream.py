"""The endless stream of training examples: shuffled epochs, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from .batches import ORDER, Batch, Draws, draw_batch, seeded_generator
from .encoding import LatentMoments
from .errors import BadPictures
from .examples import EncodedOnTheFly, Examples


class ExampleStream:
    """Shuffled epochs of `examples` without end; `batch(position)` holds `batch_size` of them from there on.

    Examples in buckets are shuffled in groups of `batch_size` of one bucket; the last group of a bucket is filled up
    from its first. Batches then begin at multiples of `batch_size`.

    Args:
        draws: what chance adds to the examples; its seed also shuffles them.

    Raises:
        ValueError: examples that are encoded already, which cannot be flipped.
    """

    def __init__(self, examples: Examples, batch_size: int, draws: Draws) -> None:
        if draws.random_flip and not isinstance(examples, EncodedOnTheFly):
            raise ValueError(
                "random_flip: expected images that are encoded on the fly: a cache holds them one way round"
            )
        self.examples = examples
        self.batch_size = batch_size
        self._draws = draws
        self._order = lru_cache(maxsize=2)(self._shuffle)
        self._epoch_length = len(self._shuffle(0)) if examples.buckets is not None else len(examples)

    def batch(self, position: int) -> Batch:
        indices = self.examples.usable(self.indices(position))
        captions = [self.examples.captions[index] for index in indices]
        batch, kept = draw_batch(self._draws, position, self._moments(indices, position), captions)
        conditioning = {**self.examples.conditioning(kept), **self.examples.geometry(indices)}
        return Batch(batch.latents, batch.noise, batch.timesteps, conditioning)

    @property
    def bad(self) -> BadPictures:
        """The pictures that are left out."""
        return self.examples.bad

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

    def _moments(self, indices: Sequence[int], position: int) -> LatentMoments:
        if not self._draws.random_flip:
            return self.examples.moments(indices)
        assert isinstance(self.examples, EncodedOnTheFly)  # checked when the stream was made
        return self.examples.moments(indices, lambda pixels: self._draws.mirror(pixels, position))

    def _shuffle(self, epoch: int) -> torch.Tensor:
        generator = seeded_generator(self._draws.seed, ORDER, epoch)
        order = torch.randperm(len(self.examples), generator=generator)
        if self.examples.buckets is None:
            return order
        buckets = torch.as_tensor(self.examples.buckets)[order]
        groups = [
            group for bucket in buckets.unique() for group in _filled_groups(order[buckets == bucket], self.batch_size)
        ]
        return torch.cat([groups[index] for index in torch.randperm(len(groups), generator=generator)])


def _filled_groups(indices: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Groups of `size`, the last one filled up by starting over."""
    missing = -len(indices) % size
    filler = indices.repeat(-(-missing // len(indices)))[:missing] if missing else indices[:0]
    return list(torch.cat([indices, filler]).split(size))
