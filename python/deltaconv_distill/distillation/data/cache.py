"""Latents and text embeddings on the disk: encoded once, read by every run, without the encoders.

A cache is a folder: `latents-*.safetensors` hold examples of one size each, `text-*.safetensors` captions, `plan.json`
what the cache is made of, and `cache.json`, written last, where everything stands. Making it can be interrupted: the
files that are there are not made again.
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
from .encoding import LatentMoments, PipelineEncoder
from .examples import ENCODING_BATCH, Conditioning, EncodedOnTheFly
from .images import CaptionedImages, DataError

PLAN_FILE, INDEX_FILE = "plan.json", "cache.json"
EXAMPLES_PER_FILE = 16 * ENCODING_BATCH
GEOMETRY = "geometry."  # prefix of what `Examples.geometry` gives
PROBES = 16  # values of an encoder's weights that tell it from others
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
        DataError: the folder holds a cache of something else, or an image cannot be read.
        OSError: the disk is full or not writable; what is written so far is kept.
    """
    examples = EncodedOnTheFly(images, encoder, num_workers)
    captions = sorted({"", *images.captions})
    plan = {
        "encoders": fingerprint(encoder),
        "dtype": str(dtype).removeprefix("torch."),
        "examples": list(zip(images.captions, images.buckets or [0] * len(images), strict=True)),
    }
    _claim(folder, json.loads(json.dumps(plan)))
    places: list[tuple[int, int]] = [(0, 0)] * len(images)
    groups = list(_groups(images))
    for number, group in enumerate(tqdm(groups, desc="latents", unit="file")):
        for row, index in enumerate(group):
            places[index] = (number, row)
        _write_once(folder / f"latents-{number:05}.safetensors", lambda group=group: _latents(examples, group), dtype)
    texts = [captions[start : start + EXAMPLES_PER_FILE] for start in range(0, len(captions), EXAMPLES_PER_FILE)]
    for number, part in enumerate(tqdm(texts, desc="captions", unit="file")):
        _write_once(folder / f"text-{number:05}.safetensors", lambda part=part: _texts(examples, part), dtype)
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
            _require_same_encoders(self.folder, plan["encoders"], fingerprint(encoder))
        captions, buckets = zip(*plan["examples"], strict=True)
        self.captions: Sequence[str] = list(captions)
        self.buckets: Sequence[int] | None = list(buckets) if index["buckets"] else None
        self._places: list[tuple[int, int]] = index["places"]
        self._rows = {caption: divmod(row, EXAMPLES_PER_FILE) for row, caption in enumerate(index["captions"])}
        self._file = lru_cache(OPEN_FILES)(self._open)

    def __len__(self) -> int:
        return len(self.captions)

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

    @staticmethod
    def _open(path: Path) -> Any:
        try:
            return safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: damaged or missing part of a cache ({error})") from error


def fingerprint(encoder: PipelineEncoder) -> dict[str, list[float]]:
    """A few weights of the VAE and of each text encoder, by the component's name."""
    probes = {}
    for name in ("vae", "text_encoder", "text_encoder_2"):
        module = getattr(encoder.pipe, name, None)
        if module is not None:
            parameters = list(module.parameters())
            chosen = parameters[:: -(-len(parameters) // PROBES)]
            probes[name] = [parameter.flatten()[-1].float().item() for parameter in chosen]
    return probes


def _require_same_encoders(folder: Path, cached: dict[str, list[float]], ours: dict[str, list[float]]) -> None:
    for name, values in ours.items():
        theirs = torch.tensor(cached.get(name, []))
        mine = torch.tensor(values)
        # wide enough for one of the two to have been loaded in bfloat16
        if theirs.shape != mine.shape or not torch.allclose(theirs, mine, rtol=2e-2, atol=1e-4):
            raise DataError(f"{folder}: this cache was made with another {name} than the teacher's")


def _claim(folder: Path, plan: dict[str, Any]) -> None:
    path = folder / PLAN_FILE
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != plan:
            raise DataError(f"{folder}: holds a cache of other images, captions, sizes, encoders or another dtype")
        return
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder}: expected a new folder or an unfinished cache")
    with atomic_file(path, "w") as file:
        json.dump(plan, file)


def _groups(images: CaptionedImages) -> Iterator[list[int]]:
    """Indices of one bucket each, as many as a file takes."""
    buckets = images.buckets or [0] * len(images)
    for bucket in sorted(set(buckets)):
        members = [index for index, other in enumerate(buckets) if other == bucket]
        for start in range(0, len(members), EXAMPLES_PER_FILE):
            yield members[start : start + EXAMPLES_PER_FILE]


def _write_once(path: Path, make: Any, dtype: torch.dtype) -> None:
    if path.exists():
        return
    tensors = {
        name: (value.to(dtype) if value.is_floating_point() and not name.startswith(GEOMETRY) else value)
        for name, value in make().items()
    }
    content = save({name: value.contiguous().cpu() for name, value in tensors.items()})
    with atomic_file(path) as file:
        file.write(content)


def _latents(examples: EncodedOnTheFly, indices: Sequence[int]) -> Conditioning:
    parts = [indices[start : start + ENCODING_BATCH] for start in range(0, len(indices), ENCODING_BATCH)]
    moments = []
    for number, part in enumerate(parts):
        if number + 1 < len(parts):
            examples.prefetch([*part, *parts[number + 1]])
        moments.append(examples.moments(part))
    geometry = {GEOMETRY + name: value for name, value in examples.geometry(indices).items()}
    return {
        "mean": torch.cat([part.mean for part in moments]),
        "std": torch.cat([part.std for part in moments]),
        **geometry,
    }


def _texts(examples: EncodedOnTheFly, captions: Sequence[str]) -> Conditioning:
    parts = [captions[start : start + ENCODING_BATCH] for start in range(0, len(captions), ENCODING_BATCH)]
    encoded = [examples.conditioning(part) for part in parts]
    return {name: torch.cat([part[name] for part in encoded]) for name in encoded[0]}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path.parent}: no complete cache here: {path.name} is missing") from error
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error})") from error
