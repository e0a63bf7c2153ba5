"""Latents and text embeddings on the disk: encoded once, read by every run, without the encoders.

A cache is a folder: `latents-*.safetensors` hold examples of one size each, `text-*.safetensors` captions, `plan.json`
what the cache is made of, and `cache.json`, written last, where everything stands. Making it can be interrupted: the
files that are there are not made again, if they were made of the pictures that stand there now.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tqdm.auto import tqdm

from ...atomic import atomic_file
from .cache_identity import PLAN_FILE, cache_plan, claim, pictures_digest, require_same_encoder
from .encoding import LatentMoments, PipelineEncoder
from .errors import BadPictures, DataError
from .examples import ENCODING_BATCH, Conditioning, EncodedOnTheFly, chunks, encode_sound
from .images import CaptionedImages

INDEX_FILE = "cache.json"
EXAMPLES_PER_FILE = 16 * ENCODING_BATCH
GEOMETRY = "geometry."  # prefix of what `Examples.geometry` gives
ROWS = "index"  # which example each row is; pictures that cannot be used have none
PICTURES = "pictures"  # in a file's metadata: the digest of those that it was made of
OPEN_FILES = 128


def write_cache(
    images: CaptionedImages,
    encoder: PipelineEncoder,
    folder: Path,
    dtype: torch.dtype = torch.float16,
    num_workers: int = 0,
) -> None:
    """Encode `images` and their captions, the empty one too, into `folder`.

    Args:
        dtype: of what is stored; reading gives float32.
        num_workers: threads that decode images.

    Raises:
        DataError: the folder holds a cache of something else, no picture can be used or too many cannot, or a value is
            beyond the range of `dtype`.
        OSError: the disk is full or not writable; what is written so far is kept.
    """
    examples = EncodedOnTheFly(images, encoder, num_workers)
    claim(folder, cache_plan(images, encoder, dtype))
    places: list[tuple[int, int] | None] = [None] * len(images)
    groups = list(_groups(images))
    for number, group in enumerate(tqdm(groups, desc="latents", unit="file")):
        path = folder / f"latents-{number:05}.safetensors"
        digest = pictures_digest(images, group)
        if path.exists():
            _require_same_pictures(path, digest)
        else:
            _write(path, _latents(examples, group), dtype, {PICTURES: digest})
        with _open(path) as file:
            for row, index in enumerate(file.get_tensor(ROWS).tolist()):
                places[index] = (number, row)
    if not any(places):
        raise DataError(f"none of {len(images)} pictures can be used, as warned above")
    captions = sorted({"", *images.captions})
    texts = [captions[start : start + EXAMPLES_PER_FILE] for start in range(0, len(captions), EXAMPLES_PER_FILE)]
    for number, part in enumerate(tqdm(texts, desc="captions", unit="file")):
        path = folder / f"text-{number:05}.safetensors"
        if not path.exists():
            _write(path, _texts(examples, part), dtype)
    with atomic_file(folder / INDEX_FILE, "w") as file:
        json.dump({"places": places, "captions": captions, "buckets": images.buckets is not None}, file)


class CachedOnDisk:
    """The examples of a cache, read row by row.

    Raises:
        DataError: the folder holds no complete cache, or one by the encoders of another teacher.
    """

    def __init__(self, folder: str | Path, encoder: PipelineEncoder | None = None) -> None:
        self.folder = Path(folder)
        plan, index = _read_json(self.folder / PLAN_FILE), _read_json(self.folder / INDEX_FILE)
        if encoder is not None:
            require_same_encoder(self.folder, plan, encoder)
        sound = [number for number, place in enumerate(index["places"]) if place is not None]
        captions, buckets = zip(*(plan["examples"][number] for number in sound), strict=True)
        self.captions: Sequence[str] = list(captions)
        self.buckets: Sequence[int] | None = list(buckets) if index["buckets"] else None
        self.bad = BadPictures()  # were left out when the cache was made
        self._places: list[tuple[int, int]] = [index["places"][number] for number in sound]
        self._rows = {caption: divmod(row, EXAMPLES_PER_FILE) for row, caption in enumerate(index["captions"])}
        self._file = lru_cache(OPEN_FILES)(_open)

    def __len__(self) -> int:
        return len(self.captions)

    def usable(self, indices: Sequence[int]) -> Sequence[int]:
        """All are."""
        return indices

    def moments(self, indices: Sequence[int]) -> LatentMoments:
        rows = [self._row("latents", *self._places[index]) for index in indices]
        return LatentMoments(*(torch.stack([row[name] for row in rows]) for name in ("mean", "std")))

    def conditioning(self, captions: Sequence[str]) -> Conditioning:
        rows = [self._row("text", *self._rows[caption]) for caption in captions]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def geometry(self, indices: Sequence[int]) -> Conditioning:
        rows = [self._row("latents", *self._places[index], prefix=GEOMETRY) for index in indices]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def prefetch(self, indices: Sequence[int]) -> None:
        """Reading a row takes no time worth hiding."""

    def _row(self, kind: str, number: int, row: int, prefix: str = "") -> Conditioning:
        file = self._file(self.folder / f"{kind}-{number:05}.safetensors")
        names = [name for name in file.keys() if name.startswith(GEOMETRY) == bool(prefix)]  # noqa: SIM118
        values = {name.removeprefix(prefix): file.get_slice(name)[row : row + 1][0] for name in names}
        return {name: value.float() if value.is_floating_point() else value for name, value in values.items()}


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: damaged or missing part of a cache ({error})") from error


def _require_same_pictures(path: Path, digest: str) -> None:
    with _open(path) as file:
        if (file.metadata() or {}).get(PICTURES) != digest:
            raise DataError(f"{path}: was made of other pictures, or of their earlier contents: give a new folder")


def _groups(images: CaptionedImages) -> Iterator[list[int]]:
    """Indices of one bucket each, as many as a file takes."""
    buckets = images.buckets or [0] * len(images)
    for bucket in sorted(set(buckets)):
        members = [index for index, other in enumerate(buckets) if other == bucket]
        for start in range(0, len(members), EXAMPLES_PER_FILE):
            yield members[start : start + EXAMPLES_PER_FILE]


def _write(path: Path, tensors: Conditioning, dtype: torch.dtype, metadata: dict[str, str] | None = None) -> None:
    stored = {name: _stored(path, name, value, dtype).contiguous().cpu() for name, value in tensors.items()}
    with atomic_file(path) as file:
        file.write(save(stored, metadata))


def _stored(path: Path, name: str, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`value` in what the cache is stored in; sizes and indices stay as they are."""
    if not value.is_floating_point() or name.startswith(GEOMETRY):
        return value
    if not torch.isfinite(value).all():
        raise DataError(f"{path}: the encoder's {name} are not finite; encode in float32")
    stored = value.to(dtype)
    if not torch.isfinite(stored).all():
        raise DataError(
            f"{path}: {name} reach {value.abs().max():.3g}, which {dtype} cannot hold "
            f"(up to {torch.finfo(dtype).max:.3g}): store them as bfloat16 or float32"
        )
    return stored


def _latents(examples: EncodedOnTheFly, indices: Sequence[int]) -> Conditioning:
    sound, moments = encode_sound(examples, indices)
    rows = {ROWS: torch.tensor(sound, dtype=torch.int64)}
    if moments is None:
        return rows
    geometry = {GEOMETRY + name: value for name, value in examples.geometry(sound).items()}
    return {**rows, "mean": moments.mean, "std": moments.std, **geometry}


def _texts(examples: EncodedOnTheFly, captions: Sequence[str]) -> Conditioning:
    encoded = [examples.conditioning(part) for part in chunks(captions)]
    return {name: torch.cat([part[name] for part in encoded]) for name in encoded[0]}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path.parent}: no complete cache here: {path.name} is missing") from error
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error})") from error
