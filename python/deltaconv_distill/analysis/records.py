"""What an analysis finds, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from .fitting import Fit


@dataclass
class TimestepProfile:
    """One layer at one timestep; every tensor is float32, and its first axis is the head.

    radial: [heads, D], mean probability of a key in each ring of `LayerProfile.distance`;
    window_share: [heads, sizes], share of a query's attention in the window, mean over queries;
    window_energy: [heads, sizes], 1 - (squared error of what the head gathers under "window and mean") / (sum of its
        squares);
    window_variance: [heads, sizes], share of the variance of what the head gathers that is left explained when scale
        and constant are free, as projections and average make them in a ΔConvBlock: the squared correlation;
    entropy: [heads], over that of uniform attention; anisotropy: [heads], of the local part, 0 to 1;
    local_share, bias_share: [heads], the mass of the fit's two parts; fits: of each head;
    field_radial: [D], root mean square gradient of the layer's output, over the sum of the map that it is taken from;
    field_sizes: {share: K}, the smallest odd window that holds that share of the gradient map;
    text_share: [heads], of a joint attention, the share that image tokens give to the text. All else is about what they
        give to the image, as if there were no text.
    """

    timestep: int
    radial: Tensor
    window_share: Tensor
    window_energy: Tensor
    window_variance: Tensor
    entropy: Tensor
    anisotropy: Tensor
    local_share: Tensor
    bias_share: Tensor
    fits: list[Fit]
    field_radial: Tensor
    field_sizes: dict[str, int]
    text_share: Tensor | None = None


@dataclass
class LayerProfile:
    """One self-attention, over all timesteps.

    grid: H, W in tokens; queries: looked at in each image of each forward;
    distance, pairs: [D], mean distance in tokens of each ring, and its query–key pairs;
    window_sizes: the K that window statistics are about;
    relative_map: [heads, 2R + 1, 2R + 1], mean probability of the key at [R + dy, R + dx] from the query; R is 15, or
        the longer side less one; bias: [heads], the constant part of it;
    radial: [D], fit: of the mean over heads and timesteps;
    head_kernel_sizes: as kernel_size, for each head by itself;
    explained: share of the output's variance that kernel_size and the mean explain;
    not_local: why a convolution and an average cannot stand in for the layer, or None;
    text_share: [heads], the mean of those of the timesteps, or None.
    """

    grid: tuple[int, int]
    heads: int
    channels: int
    queries: int
    distance: Tensor
    pairs: Tensor
    window_sizes: list[int]
    timesteps: list[TimestepProfile]
    relative_map: Tensor
    bias: Tensor
    radial: Tensor
    fit: Fit
    kernel_size: int
    head_kernel_sizes: list[int]
    explained: float
    not_local: str | None
    text_share: Tensor | None = None


@dataclass
class Example:
    """What a report shows: attention of a few points over the image that was being made.

    image: RGB; points: fractions of height and width; timestep: at which the maps were taken;
    maps: by layer [points, h, w], mean over heads, at most 32 cells a side (sums of neighbours in larger grids).
    """

    prompt: str
    timestep: int
    image: Image.Image
    points: list[tuple[float, float]]
    maps: dict[str, Tensor]


@dataclass
class LayerChange:
    """What a window in the place of one layer changes: sums of squares of the change over those of what is changed.

    layer: the layer's own output; prediction: the denoiser's output; removed: the latter with the layer's output zero.
    """

    kernel_size: int
    layer: float
    prediction: float
    removed: float


@dataclass
class Ablation:
    """Self-attention replaced, without training, by K x K windows: `kind` is one of windows.KINDS.

    prediction: change of the denoiser's output with all layers replaced; removed, mean: the same for zeros and for the
    mean alone; layers: one layer at a time; images: of the first prompt, "unchanged" and with all layers replaced by
    "windows", "mean" or zeros ("removed").
    """

    kind: str
    prediction: float
    removed: float
    mean: float
    layers: dict[str, LayerChange]
    images: dict[str, Image.Image]
