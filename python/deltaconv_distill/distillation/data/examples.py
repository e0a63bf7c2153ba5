"""Captioned images in the form that the denoiser takes, encoded when asked for or once and for all."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch

from .encoding import LatentMoments, PipelineEncoder
from .images import CaptionedImages, DataError, EmojiImages, HubImages, ImageFolder

__all__ = [
    "CachedExamples",
    "CaptionedImages",
    "DataError",
    "EmojiImages",
    "EncodedOnTheFly",
    "Examples",
    "HubImages",
    "ImageFolder",
]

ENCODING_BATCH = 64

Conditioning = dict[str, torch.Tensor]


class Examples(Protocol):
    """Encoded examples, by index: latents' moments, and the denoiser's conditioning.

    buckets: each example's bucket, within which latents have one size; None where all have.
    """

    captions: Sequence[str]
    buckets: Sequence[int] | None

    def __len__(self) -> int: ...

    def moments(self, indices: Sequence[int]) -> LatentMoments: ...

    def conditioning(self, captions: Sequence[str]) -> Conditioning: ...

    def geometry(self, indices: Sequence[int]) -> Conditioning:
        """Conditioning on the images' sizes, where the denoiser takes it."""
        ...

    def prefetch(self, indices: Sequence[int]) -> None:
        """A hint that these examples come next."""
        ...


class EncodedOnTheFly:
    """Every example is encoded when it is asked for: memory for one batch, time for the VAE and text encoder.

    Args:
        num_workers: threads that read and decode images, ahead where `prefetch` announces them; 0 for none.
    """

    def __init__(self, images: CaptionedImages, encoder: PipelineEncoder, num_workers: int = 0) -> None:
        self.captions = images.captions
        self.buckets = images.buckets
        self._images = images
        self._encoder = encoder
        self._threads = ThreadPoolExecutor(num_workers, "decode") if num_workers else None
        self._ahead: dict[int, Future[torch.Tensor]] = {}

    def __len__(self) -> int:
        return len(self._images)

    def moments(self, indices: Sequence[int]) -> LatentMoments:
        self.prefetch(indices)
        pixels = torch.stack([self._pixels(index) for index in indices])
        return self._encoder.moments(pixels.float() / 127.5 - 1)

    def conditioning(self, captions: Sequence[str]) -> Conditioning:
        return self._encoder.conditioning(captions)

    def geometry(self, indices: Sequence[int]) -> Conditioning:
        if not self._encoder.uses_geometry:
            return {}
        return self._encoder.geometry([self._images.framing(index) for index in indices])

    def prefetch(self, indices: Sequence[int]) -> None:
        if self._threads:
            for index in indices:
                if index not in self._ahead:
                    self._ahead[index] = self._threads.submit(self._images.image, index)

    def _pixels(self, index: int) -> torch.Tensor:
        future = self._ahead.pop(index, None)
        return future.result() if future else self._images.image(index)


class CachedExamples:
    """Every example, and the empty caption, is encoded once and kept in memory: for sets that fit.

    Raises:
        DataError: images of several sizes; `deltaconv cache` keeps those, on the disk.
    """

    def __init__(self, images: CaptionedImages, encoder: PipelineEncoder) -> None:
        if images.buckets is not None:
            raise DataError("images of several sizes cannot be kept in memory as one table: cache them on the disk")
        self.captions = images.captions
        self.buckets: Sequence[int] | None = None
        source = EncodedOnTheFly(images, encoder)
        batches = [source.moments(chunk) for chunk in chunks(range(len(images)))]
        self._moments = LatentMoments(
            torch.cat([batch.mean for batch in batches]), torch.cat([batch.std for batch in batches])
        )
        self._geometry = source.geometry(range(len(images)))
        unique = sorted({"", *images.captions})
        encoded = [source.conditioning(chunk) for chunk in chunks(unique)]
        self._conditioning = {name: torch.cat([part[name] for part in encoded]) for name in encoded[0]}
        self._row = {caption: row for row, caption in enumerate(unique)}

    def __len__(self) -> int:
        return len(self.captions)

    def moments(self, indices: Sequence[int]) -> LatentMoments:
        return self._moments[torch.as_tensor(indices)]

    def conditioning(self, captions: Sequence[str]) -> Conditioning:
        rows = torch.tensor([self._row[caption] for caption in captions])
        return {name: table[rows] for name, table in self._conditioning.items()}

    def geometry(self, indices: Sequence[int]) -> Conditioning:
        return {name: table[torch.as_tensor(indices)] for name, table in self._geometry.items()}

    def prefetch(self, indices: Sequence[int]) -> None:
        """Nothing is left to fetch."""


def chunks(items: Sequence) -> list[Sequence]:
    """`items` in parts of ENCODING_BATCH."""
    return [items[start : start + ENCODING_BATCH] for start in range(0, len(items), ENCODING_BATCH)]
