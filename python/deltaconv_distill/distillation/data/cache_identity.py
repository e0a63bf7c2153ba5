"""What a cache is made of: whatever of it is another makes another cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...atomic import atomic_file
from .encoding import PipelineEncoder
from .errors import DataError
from .images import CaptionedImages

PLAN_FILE = "plan.json"
FORMAT = 3  # 1 took no notice of EXIF orientation, transparency and 16-bit pictures; 2 of colour profiles
PROBES = 16  # values of an encoder's weights that tell it from others
NAMES = {
    "format": "format of this library",
    "encoders": "encoders",
    "settings": "encoder settings",
    "dtype": "dtype",
    "sizes": "image sizes",
    "examples": "captions or buckets",
}


def cache_plan(images: CaptionedImages, encoder: PipelineEncoder, dtype: torch.dtype) -> dict[str, Any]:
    """What is known before anything is encoded, as JSON has it; the pictures' digests stand beside the latents."""
    plan = {
        "format": FORMAT,
        "encoders": fingerprint(encoder),
        "settings": encoder_settings(encoder),
        "dtype": str(dtype).removeprefix("torch."),
        "sizes": images.sizes,
        "examples": list(zip(images.captions, images.buckets or [0] * len(images), strict=True)),
    }
    return json.loads(json.dumps(plan))


def claim(folder: Path, plan: dict[str, Any]) -> None:
    """Make `folder` that of a cache by this plan, or find that it is.

    Raises:
        DataError: it holds another cache, or other things.
    """
    path = folder / PLAN_FILE
    if path.exists():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        differing = [NAMES[name] for name, value in plan.items() if theirs.get(name) != value]
        if differing:
            raise DataError(f"{folder}: holds a cache made with other {', '.join(differing)}: give a new folder")
        return
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder}: expected a new folder or an unfinished cache")
    with atomic_file(path, "w") as file:
        json.dump(plan, file)


def require_same_encoder(folder: Path, plan: dict[str, Any], encoder: PipelineEncoder) -> None:
    """Raises DataError for a cache by other encoders or settings than the teacher's, or by an earlier format."""
    if plan.get("format") != FORMAT:
        raise DataError(
            f"{folder}: this cache is of an earlier format, which read some pictures otherwise: make it anew"
        )
    for name, values in fingerprint(encoder).items():
        theirs = torch.tensor(plan["encoders"].get(name, []))
        mine = torch.tensor(values)
        # wide enough for one of the two to have been loaded in bfloat16
        if theirs.shape != mine.shape or not torch.allclose(theirs, mine, rtol=2e-2, atol=1e-4):
            raise DataError(f"{folder}: this cache was made with another {name} than the teacher's")
    for name, value in json.loads(json.dumps(encoder_settings(encoder))).items():
        if plan["settings"].get(name) != value:
            raise DataError(
                f"{folder}: this cache was made with {name} {plan['settings'].get(name)}, the teacher has {value}"
            )


def fingerprint(encoder: PipelineEncoder) -> dict[str, list[float]]:
    """A few weights of the VAE and of each text encoder, by the component's name."""
    probes = {}
    for name in ("vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        module = getattr(encoder.pipe, name, None)
        if module is not None:
            parameters = list(module.parameters())
            chosen = parameters[:: -(-len(parameters) // PROBES)]
            probes[name] = [parameter.flatten()[-1].float().item() for parameter in chosen]
    return probes


def encoder_settings(encoder: PipelineEncoder) -> dict[str, Any]:
    """What changes an encoder's outputs beside its weights."""
    shift, scale = encoder.latent_scaling
    tokenizers = (getattr(encoder.pipe, name, None) for name in ("tokenizer", "tokenizer_2", "tokenizer_3"))
    return {
        "pipeline": type(encoder.pipe).__name__,
        "latent_shift": shift,
        "latent_scale": scale,
        "text_lengths": [tokenizer.model_max_length for tokenizer in tokenizers if tokenizer is not None],
        "uses_geometry": encoder.uses_geometry,
    }


def pictures_digest(images: CaptionedImages, indices: Sequence[int]) -> str:
    """Tells these pictures from others; reads every one of them."""
    digest = hashlib.blake2b(digest_size=16)
    for index in indices:
        digest.update(images.digest(index).encode())
    return digest.hexdigest()
