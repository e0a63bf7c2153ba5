"""How a picture of any size becomes an image of one of a few: resize, then crop at the centre."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

# Sides of buckets are multiples of this many pixels: the VAE's 8 times the UNet's 8.
BUCKET_STEP = 64


class Framing(NamedTuple):
    """Pixels: the size before, where the crop began after resizing, and the size it has now; SDXL's time ids."""

    original_height: int
    original_width: int
    crop_top: int
    crop_left: int
    height: int
    width: int

    @classmethod
    def whole(cls, height: int, width: int) -> Framing:
        return cls(height, width, 0, 0, height, width)


class Framer:
    """Resizes a picture to cover its bucket, and crops what is over at both ends alike.

    Args:
        resolution: the square's side in pixels; with buckets, the square root of every bucket's largest area.
        max_aspect_ratio: the longest side of a bucket over its shortest; 1 means squares only.
        step: sides of buckets are multiples of this.
    """

    def __init__(self, resolution: int, max_aspect_ratio: float = 1.0, step: int = BUCKET_STEP) -> None:
        if resolution < 1 or max_aspect_ratio < 1:
            raise ValueError(
                f"resolution, max_aspect_ratio: expected at least 1, got {resolution} and {max_aspect_ratio}"
            )
        self.resolution = resolution
        self.sizes = _bucket_sizes(resolution, max_aspect_ratio, step)  # (height, width) of each bucket

    @property
    def has_buckets(self) -> bool:
        return len(self.sizes) > 1

    def bucket(self, height: int, width: int) -> int:
        """The bucket whose aspect ratio is nearest."""
        ratio = math.log(height / width)
        return min(range(len(self.sizes)), key=lambda index: abs(math.log(_ratio(self.sizes[index])) - ratio))

    def framing(self, height: int, width: int) -> Framing:
        """For a picture of height x width."""
        target_height, target_width = self.sizes[self.bucket(height, width)]
        resized_height, resized_width = self._resized(height, width)
        top, left = (resized_height - target_height) // 2, (resized_width - target_width) // 2
        return Framing(height, width, top, left, target_height, target_width)

    def apply(self, picture: Image.Image) -> torch.Tensor:
        """A picture in RGB -> [3, H, W] uint8, of its bucket's size."""
        framing = self.framing(picture.height, picture.width)
        height, width = self._resized(picture.height, picture.width)
        resized = picture.resize((width, height), Image.Resampling.LANCZOS)
        left, top = framing.crop_left, framing.crop_top
        cropped = resized.crop((left, top, left + framing.width, top + framing.height))
        return torch.from_numpy(np.array(cropped)).permute(2, 0, 1)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        target_height, target_width = self.sizes[self.bucket(height, width)]
        scale = max(target_height / height, target_width / width)
        return max(target_height, round(height * scale)), max(target_width, round(width * scale))


def _bucket_sizes(resolution: int, max_aspect_ratio: float, step: int) -> list[tuple[int, int]]:
    """The square first, then for each longer side the longest other side that keeps within its area."""
    sizes = [(resolution, resolution)]
    area = resolution * resolution
    longer = (resolution // step + 1) * step
    while True:
        shorter = area // longer // step * step
        if shorter < 1 or longer / shorter > max_aspect_ratio:
            return sizes
        sizes += [(shorter, longer), (longer, shorter)]
        longer += step


def _ratio(size: tuple[int, int]) -> float:
    return size[0] / size[1]
