"""Captioned images by index: what a data set provides, the embedded emoji, and pictures of any size in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...embedded import load_emoji
from .errors import BadPicture, BadPictures, DataError
from .folder_captions import captioned_files
from .framing import Framer, Framing
from .pictures import IMAGE_SUFFIXES, Source, picture_digest, read_picture, read_size


class CaptionedImages:
    """A data set of images with captions, by index: what a subclass provides.

    captions: one for each image.
    buckets:  each image's bucket, images of one bucket having one size; None where all have one size.
    """

    captions: Sequence[str]
    buckets: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def image(self, index: int) -> torch.Tensor:
        """[3, H, W] uint8.

        Raises:
            BadPicture: it cannot be used; it is then left out, and the others do without it.
        """
        raise NotImplementedError

    def sound(self) -> Iterator[torch.Tensor]:
        """The images in order, without those that cannot be used."""
        for index in range(len(self)):
            try:
                yield self.image(index)
            except BadPicture as error:
                self.bad.leave_out(self.name(index), error)

    def name(self, index: int) -> str:
        """What a message calls the image."""
        return f"image {index}"

    def framing(self, index: int) -> Framing:
        """Size and crop of the image; unless a subclass knows better, it is whole and as large as it was."""
        return Framing.whole(*self.image(index).shape[1:])

    def digest(self, index: int) -> str:
        """Tells the image, before it is framed, from any other."""
        pixels = self.image(index).contiguous().numpy()
        return hashlib.blake2b(pixels.tobytes() + repr(pixels.shape).encode(), digest_size=16).hexdigest()

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each bucket."""
        height, width = self.image(0).shape[1:]
        return [(height, width)]

    @cached_property
    def bad(self) -> BadPictures:
        """Those that have been left out so far."""
        return BadPictures()


class EmojiImages(CaptionedImages):
    """The emoji that the embedded teacher was trained on, 32x32 in colour: each under its name, then under its kind.

    A name ("red apple") belongs to one picture, a kind ("fruit") to many.
    """

    def __init__(self) -> None:
        emoji = load_emoji(pictorial_only=True)
        self.captions = [*emoji.captions, *emoji.kinds]
        self.pixels = np.concatenate([emoji.images, emoji.images])  # uint8 [2N, 32, 32, 3]

    def image(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.pixels[index]).permute(2, 0, 1)


class FramedImages(CaptionedImages):
    """Pictures of any size, resized and cropped by a `Framer`, which also sorts them into buckets.

    Sorting reads every picture's header; those without a readable one are left out at once.

    Args:
        sources: a path or encoded bytes for each picture.
        framer: a resolution makes a `Framer` of squares.
        bad: counts pictures that are left out, to a limit.
    """

    def __init__(
        self, captions: Sequence[str], sources: Sequence[Any], framer: Framer | int, bad: BadPictures | None = None
    ) -> None:
        self.captions = captions
        self.framer = Framer(framer) if isinstance(framer, int) else framer
        self.bad = bad if bad is not None else BadPictures()
        self._sources = sources
        self._entries: Sequence[int] = range(len(captions))  # where in `sources` each image is
        if self.framer.has_buckets:
            self._sort_into_buckets()

    def name(self, index: int) -> str:
        return self._source_name(self._entries[index])

    def image(self, index: int) -> torch.Tensor:
        return self.framer.apply(read_picture(self.source(index)))

    def framing(self, index: int) -> Framing:
        return self.framer.framing(*read_size(self.source(index)))

    def digest(self, index: int) -> str:
        return picture_digest(self.source(index))

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return self.framer.sizes

    def source(self, index: int) -> Source:
        """The picture's file, or what is in it."""
        return self._sources[self._entries[index]]

    def _source_name(self, entry: int) -> str:
        return str(self._sources[entry])

    def _sort_into_buckets(self) -> None:
        buckets = {}
        for entry in self._entries:
            try:
                buckets[entry] = self.framer.bucket(*read_size(self._sources[entry]))
            except BadPicture as error:
                self.bad.leave_out(self._source_name(entry), error)
        if not buckets:
            raise DataError(f"none of the {len(self.captions)} pictures can be used, as warned above")
        self._entries, self.buckets = list(buckets), list(buckets.values())
        self.captions = [self.captions[entry] for entry in self._entries]


class ImageFolder(FramedImages):
    """A folder of images with captions.

    Captions come from metadata.jsonl or metadata.csv (columns `file_name` and `caption_column`) in the folder or its
    train/, as in Hugging Face's imagefolder, or else from a .txt file beside each image.

    Args:
        resolution: images are resized on the shorter side and cropped at the centre to this square; or a `Framer`.
        bad: counts pictures that are left out, to a limit.

    Raises:
        DataError: no images, a missing caption, or one in an unknown encoding.
    """

    def __init__(
        self,
        folder: str | Path,
        resolution: int | Framer,
        caption_column: str = "text",
        bad: BadPictures | None = None,
    ) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DataError(f"train_data_dir: expected a folder of images, got {str(folder)!r}")
        captioned = captioned_files(self.folder, caption_column)
        if not captioned:
            raise DataError(f"train_data_dir: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) in {self.folder}")
        super().__init__([caption for _, caption in captioned], [path for path, _ in captioned], resolution, bad)
