"""Shards of random pictures, as WebDataset lays them out."""

from __future__ import annotations

import io
import tarfile

import numpy as np
from PIL import Image


def picture(seed: int, height: int = 16, width: int = 16) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def write_shard(path, pictures: dict[str, bytes]) -> None:
    files = {}
    for key, content in pictures.items():
        files |= {f"{key}.png": content, f"{key}.txt": key.encode()}
    write_files(path, files)


def write_files(path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
