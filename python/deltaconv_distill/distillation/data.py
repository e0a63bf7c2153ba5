"""Captioned images: the embedded emoji or a folder, and their encoded form that the trainer reads."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ..embedded import load_emoji
from .encoding import LatentMoments, PipelineEncoder

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
ENCODING_BATCH = 64


class DataError(ValueError):
    """The training data cannot be used; the message names the file and what was expected."""


class CaptionedImages(Protocol):
    """What a data set offers: its length and, by index, images [3, H, W] uint8 and captions."""

    captions: Sequence[str]

    def __len__(self) -> int: ...

    def image(self, index: int) -> torch.Tensor: ...


class EmojiImages:
    """The emoji that the embedded teacher was trained on, 32x32 in colour: each under its name, then under its kind.

    A name ("red apple") belongs to one picture, a kind ("fruit") to many.
    """

    def __init__(self) -> None:
        emoji = load_emoji(pictorial_only=True)
        self.captions: Sequence[str] = [*emoji.captions, *emoji.kinds]
        self.pixels = np.concatenate([emoji.images, emoji.images])  # uint8 [2N, 32, 32, 3]

    def __len__(self) -> int:
        return len(self.captions)

    def image(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.pixels[index]).permute(2, 0, 1)


class ImageFolder:
    """A folder of images with captions, resized on the shorter side and cropped at the centre to a square.

    Captions come from metadata.jsonl or metadata.csv (columns `file_name` and `caption_column`, as in Hugging Face's
    imagefolder), or else from a .txt file beside each image.

    Raises:
        DataError: no images, a missing caption, or a file that is not an image.
    """

    def __init__(self, folder: str | Path, resolution: int, caption_column: str = "text") -> None:
        self.folder = Path(folder)
        self.resolution = resolution
        if not self.folder.is_dir():
            raise DataError(f"train_data_dir: expected a folder of images, got {str(folder)!r}")
        captioned = _read_metadata(self.folder, caption_column) or _read_text_files(self.folder)
        if not captioned:
            raise DataError(f"train_data_dir: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) in {self.folder}")
        self.paths = [path for path, _ in captioned]
        self.captions: Sequence[str] = [caption for _, caption in captioned]

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> torch.Tensor:
        path = self.paths[index]
        try:
            with Image.open(path) as file:
                picture = _square(file.convert("RGB"), self.resolution)
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(f"{path}: not a readable image ({error})") from error
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


class Examples(Protocol):
    """Encoded examples, by index: latents' moments, and the denoiser's conditioning for a list of captions."""

    captions: Sequence[str]

    def __len__(self) -> int: ...

    def moments(self, indices: Sequence[int]) -> LatentMoments: ...

    def conditioning(self, captions: Sequence[str]) -> dict[str, torch.Tensor]: ...


class EncodedOnTheFly:
    """Every example is encoded when it is asked for: memory for one batch, time for the VAE and text encoder."""

    def __init__(self, images: CaptionedImages, encoder: PipelineEncoder) -> None:
        self.captions = images.captions
        self._images = images
        self._encoder = encoder

    def __len__(self) -> int:
        return len(self._images)

    def moments(self, indices: Sequence[int]) -> LatentMoments:
        pixels = torch.stack([self._images.image(index) for index in indices])
        return self._encoder.moments(pixels.float() / 127.5 - 1.0)

    def conditioning(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        return self._encoder.conditioning(captions)


class CachedExamples:
    """Every example, and the empty caption, is encoded once and kept in memory: for sets that fit."""

    def __init__(self, images: CaptionedImages, encoder: PipelineEncoder) -> None:
        self.captions = images.captions
        source = EncodedOnTheFly(images, encoder)
        batches = [source.moments(chunk) for chunk in _chunks(range(len(images)))]
        self._moments = LatentMoments(
            torch.cat([batch.mean for batch in batches]), torch.cat([batch.std for batch in batches])
        )
        unique = sorted({"", *images.captions})
        encoded = [source.conditioning(chunk) for chunk in _chunks(unique)]
        self._conditioning = {name: torch.cat([part[name] for part in encoded]) for name in encoded[0]}
        self._row = {caption: row for row, caption in enumerate(unique)}

    def __len__(self) -> int:
        return len(self.captions)

    def moments(self, indices: Sequence[int]) -> LatentMoments:
        return self._moments[torch.as_tensor(indices)]

    def conditioning(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        rows = torch.tensor([self._row[caption] for caption in captions])
        return {name: table[rows] for name, table in self._conditioning.items()}


def _chunks(items: Sequence) -> list[Sequence]:
    return [items[start : start + ENCODING_BATCH] for start in range(0, len(items), ENCODING_BATCH)]


def _square(picture: Image.Image, resolution: int) -> Image.Image:
    scale = resolution / min(picture.size)
    width, height = (max(resolution, round(side * scale)) for side in picture.size)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    resized = picture.resize((width, height), Image.Resampling.LANCZOS)
    return resized.crop((left, top, left + resolution, top + resolution))


def _read_metadata(folder: Path, caption_column: str) -> list[tuple[Path, str]]:
    rows: list[dict] = []
    for name in ("metadata.jsonl", "metadata.csv"):
        path = folder / name
        if path.is_file():
            try:
                rows = _parse(path)
            except (ValueError, csv.Error) as error:
                raise DataError(f"{path}: not readable as {path.suffix[1:]} ({error})") from error
            break
    return [_captioned(folder, path, number, row, caption_column) for number, row in enumerate(rows, 1)]


def _parse(path: Path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            return list(csv.DictReader(file))
        return [json.loads(line) for line in file if line.strip()]


def _captioned(folder: Path, metadata: Path, number: int, row: dict, caption_column: str) -> tuple[Path, str]:
    for column in ("file_name", caption_column):
        if not isinstance(row.get(column), str):
            raise DataError(f"{metadata}, entry {number}: expected a text column {column!r}, got columns {sorted(row)}")
    path = folder / row["file_name"]
    if not path.is_file():
        raise DataError(f"{metadata}, entry {number}: {path} does not exist")
    return path, row[caption_column]


def _read_text_files(folder: Path) -> list[tuple[Path, str]]:
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    for path in images:
        if not path.with_suffix(".txt").is_file():
            raise DataError(
                f"{path}: no caption; expected metadata.jsonl, metadata.csv or {path.with_suffix('.txt').name}"
            )
    return [(path, path.with_suffix(".txt").read_text(encoding="utf-8").strip()) for path in images]
