"""Captioned images in the form that the denoiser takes, encoded when asked for or once and for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch

from .encoding import LatentMoments, PipelineEncoder
from .errors import BadPicture, BadPictures, DataError
from .images import CaptionedImages

ENCODING_BATCH = 64

Conditioning = dict[str, torch.Tensor]


class Examples(Protocol):
    """Encoded examples, by index: latents' moments, and the denoiser's conditioning.

    buckets: each example's bucket, within which latents have one size; None where all have.
    bad: the pictures that are left out.
    """

    captions: Sequence[str]
    buckets: Sequence[int] | None
    bad: BadPictures

    def __len__(self) -> int: ...

    def usable(self, indices: Sequence[int]) -> Sequence[int]:
        """`indices`, with others in the places of pictures that cannot be used."""
        ...

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
        self.bad = images.bad
        self._images = images
        self._encoder = encoder
        self._threads = ThreadPoolExecutor(num_workers, "decode") if num_workers else None
        self._ahead: dict[int, Future[torch.Tensor]] = {}
        self._decoded: dict[int, torch.Tensor] = {}
        self._unusable: set[int] = set()

    def __len__(self) -> int:
        return len(self._images)

    def usable(self, indices: Sequence[int]) -> list[int]:
        """`indices`, with the next sound picture of its bucket in the place of each that cannot be used.

        Which one that is depends on the data alone, so a run resumes, and is dealt out to processes, as without.

        Raises:
            DataError: a bucket has no sound picture, or there are too many bad ones.
        """
        self.prefetch(indices)
        return [self._next_usable(index) for index in indices]

    def decodes(self, index: int) -> bool:
        """Whether a picture can be used; it is decoded once for this and for `moments`."""
        if index in self._unusable:
            return False
        try:
            if index not in self._decoded:
                self._decoded[index] = self._decode(index)
        except BadPicture as error:
            self._unusable.add(index)
            self.bad.leave_out(self._images.name(index), error)
            return False
        return True

    def moments(
        self, indices: Sequence[int], change: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> LatentMoments:
        """Of these pictures.

        Args:
            change: of the pixels, [B, 3, H, W] uint8, before they are encoded.

        Raises:
            BadPicture: one cannot be used.
        """
        self.prefetch(indices)
        decoded = [self._decoded[index] if index in self._decoded else self._decode(index) for index in indices]
        self._decoded.clear()
        pixels = torch.stack(decoded)
        return self._encoder.moments((change(pixels) if change else pixels).float() / 127.5 - 1)

    def conditioning(self, captions: Sequence[str]) -> Conditioning:
        return self._encoder.conditioning(captions)

    def geometry(self, indices: Sequence[int]) -> Conditioning:
        if not self._encoder.uses_geometry:
            return {}
        return self._encoder.geometry([self._images.framing(index) for index in indices])

    def prefetch(self, indices: Sequence[int]) -> None:
        if self._threads:
            for index in indices:
                if index not in self._ahead and index not in self._decoded and index not in self._unusable:
                    self._ahead[index] = self._threads.submit(self._images.image, index)

    def _decode(self, index: int) -> torch.Tensor:
        future = self._ahead.pop(index, None)
        return future.result() if future else self._images.image(index)

    def _next_usable(self, index: int) -> int:
        count = len(self)
        for candidate in (*range(index, count), *range(index)):
            if (self.buckets is None or self.buckets[candidate] == self.buckets[index]) and self.decodes(candidate):
                return candidate
        raise DataError(f"no picture of the size of {self._images.name(index)} can be used, as warned above")


class CachedExamples:
    """Every example, and the empty caption, is encoded once and kept in memory: for sets that fit.

    Pictures that cannot be used are not among the examples.

    Raises:
        DataError: images of several sizes, which `deltaconv cache` keeps on the disk; none that can be used.
    """

    def __init__(self, images: CaptionedImages, encoder: PipelineEncoder) -> None:
        if images.buckets is not None:
            raise DataError("images of several sizes cannot be kept in memory as one table: cache them on the disk")
        self.buckets: Sequence[int] | None = None
        self.bad = images.bad
        source = EncodedOnTheFly(images, encoder)
        sound, moments = encode_sound(source, range(len(images)))
        if moments is None:
            raise DataError(f"none of {len(images)} pictures can be used, as warned above")
        self._moments = moments
        self.captions: Sequence[str] = [images.captions[index] for index in sound]
        self._geometry = source.geometry(sound)
        unique = sorted({"", *self.captions})
        encoded = [source.conditioning(chunk) for chunk in chunks(unique)]
        self._conditioning = {name: torch.cat([part[name] for part in encoded]) for name in encoded[0]}
        self._row = {caption: row for row, caption in enumerate(unique)}

    def __len__(self) -> int:
        return len(self.captions)

    def usable(self, indices: Sequence[int]) -> Sequence[int]:
        """All are."""
        return indices

    def moments(self, indices: Sequence[int]) -> LatentMoments:
        return self._moments[torch.as_tensor(indices)]

    def conditioning(self, captions: Sequence[str]) -> Conditioning:
        rows = torch.tensor([self._row[caption] for caption in captions])
        return {name: table[rows] for name, table in self._conditioning.items()}

    def geometry(self, indices: Sequence[int]) -> Conditioning:
        return {name: table[torch.as_tensor(indices)] for name, table in self._geometry.items()}

    def prefetch(self, indices: Sequence[int]) -> None:
        """Nothing is left to fetch."""


def encode_sound(source: EncodedOnTheFly, indices: Sequence[int]) -> tuple[list[int], LatentMoments | None]:
    """Which of these pictures can be used, and the moments of those, if any, encoded a batch at a time.

    Raises:
        DataError: there are too many bad ones.
    """
    sound: list[int] = []
    means, stds = [], []
    parts = chunks(indices)
    for number, part in enumerate(parts):
        source.prefetch([*part, *(parts[number + 1] if number + 1 < len(parts) else ())])
        good = [index for index in part if source.decodes(index)]
        if good:
            moments = source.moments(good)
            sound += good
            means.append(moments.mean)
            stds.append(moments.std)
    return sound, LatentMoments(torch.cat(means), torch.cat(stds)) if sound else None


def chunks(items: Sequence) -> list[Sequence]:
    """`items` in parts of ENCODING_BATCH."""
    return [items[start : start + ENCODING_BATCH] for start in range(0, len(items), ENCODING_BATCH)]
