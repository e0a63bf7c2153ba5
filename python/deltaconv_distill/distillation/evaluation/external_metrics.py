"""Measures that need weights which this library does not ship: FID, CLIP score, and FDD.

Nothing is downloaded: each function takes the path of weights that the user has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...metrics import frechet_distance

BATCH = 32


def check_weights(inception_weights: str | None, clip_model: str | None, dino_model: str | None) -> None:
    """Load what is asked for and drop it: mistakes show before images are generated, not after.

    Raises:
        ValueError: as the functions below, naming the argument.
    """
    if inception_weights:
        _inception(inception_weights)
    if clip_model:
        _clip(clip_model)
    if dino_model:
        _dino(dino_model)


def inception_distance(images: np.ndarray, real: np.ndarray, weights: str) -> float:
    """FID (Heusel et al., arXiv 1706.08500) of [N, H, W, 3] uint8 images, by torchmetrics and torch-fidelity.

    Args:
        weights: torch-fidelity's Inception file, weights-inception-2015-12-05-6726825d.pth.

    Raises:
        ValueError: no such file, or torchmetrics or torch-fidelity is not installed.
    """
    metric = _inception(weights)
    for batch, is_real in ((images, False), (real, True)):
        for part in _channels_first(batch).split(BATCH):
            metric.update(part, real=is_real)
    return float(metric.compute())


@torch.no_grad()
def clip_score(images: np.ndarray, prompts: Sequence[str], model: str) -> float:
    """100 times the mean cosine of CLIP's embeddings (Hessel et al., arXiv 2104.08718) of images and their prompts.

    Args:
        images: [N, H, W, 3] uint8; prompts: N texts, cut to the model's length.
        model: a folder with a transformers CLIP model and its processor.

    Raises:
        ValueError: no such folder, or one without such a model.
    """
    network, processor = _clip(model)
    cosines = []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        options = {"return_tensors": "pt", "padding": True, "truncation": True}
        outputs = network(**processor(text=list(prompts[part]), images=list(images[part]), **options))
        cosines.append(torch.cosine_similarity(outputs.image_embeds, outputs.text_embeds))
    return float(100 * torch.cat(cosines).mean())


@torch.no_grad()
def dino_distance(images: np.ndarray, real: np.ndarray, model: str) -> float:
    """FDD: Fréchet distance of DINOv2's class tokens (Stein et al., arXiv 2306.04675) of [N, H, W, 3] uint8 images.

    Args:
        model: a folder with a transformers Dinov2Model and its image processor; the paper takes ViT-L/14.

    Raises:
        ValueError: no such folder, or one without such a model.
    """
    network, processor = _dino(model)

    def features(batch: np.ndarray) -> torch.Tensor:
        parts = [list(batch[start : start + BATCH]) for start in range(0, len(batch), BATCH)]
        pixels = [processor(images=part, return_tensors="pt")["pixel_values"] for part in parts]
        return torch.cat([network(part).last_hidden_state[:, 0] for part in pixels])

    return frechet_distance(features(images), features(real))


def _inception(weights: str) -> Any:
    _require_path("inception_weights", weights)
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        return FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=weights)
    except ImportError as error:  # torchmetrics reports a missing torch-fidelity as a ModuleNotFoundError
        raise ValueError(f"inception_weights: FID needs pip install torchmetrics torch-fidelity ({error})") from error


def _clip(model: str) -> tuple[Any, Any]:
    from transformers import CLIPModel, CLIPProcessor

    return _load("clip_model", model, CLIPModel, CLIPProcessor)


def _dino(model: str) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, Dinov2Model

    return _load("dino_model", model, Dinov2Model, AutoImageProcessor)


def _load(name: str, path: str, model: Any, processor: Any) -> tuple[Any, Any]:
    _require_path(name, path)
    try:
        return model.from_pretrained(path).eval(), processor.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: {path!r} cannot be loaded ({error})") from error


def _require_path(name: str, path: str) -> None:
    if not Path(path).exists():
        raise ValueError(f"{name}: expected a path of weights on this machine, got {path!r}")


def _channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)
