"""Measures that need weights which this library does not ship: FID, CLIP score, and FDD.

Nothing is downloaded: each function takes the path of weights that the user has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..metrics import frechet_distance

BATCH = 32


def inception_distance(images: np.ndarray, real: np.ndarray, weights: str) -> float:
    """FID (Heusel et al., arXiv 1706.08500) of [N, H, W, 3] uint8 images, by torchmetrics and torch-fidelity.

    Args:
        weights: torch-fidelity's Inception file, weights-inception-2015-12-05-6726825d.pth.

    Raises:
        ValueError: no such file, or torchmetrics or torch-fidelity is not installed.
    """
    _require_path("inception_weights", weights)
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=weights)
    except ImportError as error:  # torchmetrics reports a missing torch-fidelity as a ModuleNotFoundError
        raise ValueError(f"inception_weights: FID needs pip install torchmetrics torch-fidelity ({error})") from error
    for batch, is_real in ((images, False), (real, True)):
        for part in _channels_first(batch).split(BATCH):
            metric.update(part, real=is_real)
    return float(metric.compute())


def clip_score(images: np.ndarray, prompts: Sequence[str], model: str) -> float:
    """100 times the mean cosine between CLIP's embeddings of [N, H, W, 3] uint8 images and of their prompts.

    Args:
        model: a folder with a transformers CLIP model and its processor.

    Raises:
        ValueError: no such folder, or torchmetrics is not installed.
    """
    _require_path("clip_model", model)
    try:
        from torchmetrics.multimodal import CLIPScore
    except ImportError as error:
        raise ValueError(f"clip_model: CLIP score needs pip install torchmetrics ({error})") from error
    metric = CLIPScore(model_name_or_path=model)
    for start in range(0, len(prompts), BATCH):
        part = _channels_first(images[start : start + BATCH])
        metric.update(list(part), list(prompts[start : start + BATCH]))
    return float(metric.compute())


@torch.no_grad()
def dino_distance(images: np.ndarray, real: np.ndarray, model: str) -> float:
    """FDD: Fréchet distance of DINOv2's class tokens (Stein et al., arXiv 2306.04675) of [N, H, W, 3] uint8 images.

    Args:
        model: a folder with a transformers Dinov2Model and its image processor; the paper takes ViT-L/14.

    Raises:
        ValueError: no such folder, or one without such a model.
    """
    from transformers import AutoImageProcessor, Dinov2Model

    _require_path("dino_model", model)
    try:
        network = Dinov2Model.from_pretrained(model).eval()
        processor = AutoImageProcessor.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ValueError(f"dino_model: {model!r} cannot be loaded ({error})") from error

    def features(batch: np.ndarray) -> torch.Tensor:
        parts = [list(batch[start : start + BATCH]) for start in range(0, len(batch), BATCH)]
        pixels = [processor(images=part, return_tensors="pt")["pixel_values"] for part in parts]
        return torch.cat([network(part).last_hidden_state[:, 0] for part in pixels])

    return frechet_distance(features(images), features(real))


def _require_path(name: str, path: str) -> None:
    if not Path(path).exists():
        raise ValueError(f"{name}: expected a path of weights on this machine, got {path!r}")


def _channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)
