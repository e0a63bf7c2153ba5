"""A layer's pictures: where points look, the mean map by displacement, and curves against distance and window size."""

from __future__ import annotations

import html

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from .records import Example, LayerProfile
from .theme import Theme, picture, plain, plot

SIDE = 224  # pixels of the longer side of a picture
HEAT = colormaps["inferno"]  # perceptually uniform, and readable with any colour vision
MARK = "#56b4e9"
GAMMA = 0.7  # of attention over pictures, below 1 to show weak parts too
TINY = 1e-30


def heat_map(example: Example, layer: str, point: int, kernel_size: int, grid: tuple[int, int]) -> str:
    """Attention of one point over the image, with the point and the layer's K x K window, as HTML."""
    cells = example.maps[layer][point]
    height, width = cells.shape
    scale = SIDE / max(example.image.size)
    size = (round(scale * example.image.width), round(scale * example.image.height))
    image = np.asarray(example.image.convert("L").resize(size, Image.Resampling.LANCZOS), dtype=np.float32) / 255
    heat = _enlarge((cells / cells.max().clamp(min=TINY)) ** GAMMA, size)
    blend = 0.95 * heat[..., None]
    colours = HEAT(0.2 + 0.8 * heat)[..., :3] * blend + (0.1 + 0.5 * image[..., None]) * (1 - blend)
    shown = Image.fromarray((255 * colours).clip(0, 255).astype(np.uint8))
    y, x = example.points[point]
    row, column = int(y * grid[0]), int(x * grid[1])
    _outline(shown, (row + 0.5, column + 0.5), kernel_size, (size[1] / grid[0], size[0] / grid[1]))
    times = cells.max().item() * height * width
    return (
        f"<figure>{picture(shown, f'Where a point of {layer} looks', exact=False)}"
        f"<figcaption>at most {times:.3g}× an equal share</figcaption></figure>"
    )


def relative_picture(profile: LayerProfile) -> str:
    """The mean map by displacement over heads, with the K x K window, as HTML."""
    cells = profile.relative_map.mean(0) * profile.grid[0] * profile.grid[1]
    cut = max(len(cells) // 2 - max(profile.grid) // 2, 0)  # displacements that few queries have say little
    cells = cells[cut : len(cells) - cut, cut : len(cells) - cut]
    side, low, high = len(cells), cells[cells > 0].min(), cells.max()
    heat = _enlarge(((cells - low) / (high - low).clamp(min=TINY)).clamp(min=0), (SIDE, SIDE))
    shown = Image.fromarray((255 * HEAT(heat)[..., :3]).astype(np.uint8))
    _outline(shown, (side / 2, side / 2), profile.kernel_size, (SIDE / side, SIDE / side))
    return (
        f"<figure>{picture(shown, 'Mean attention by displacement')}"
        f"<figcaption>by displacement, ±{side // 2} tokens, {low:.2g}× to {high:.3g}×</figcaption></figure>"
    )


def curves(name: str, profile: LayerProfile) -> str:
    """Strength against distance with its fit, and what windows hold and explain, as HTML."""

    def draw(figure: Figure, theme: Theme) -> None:
        against_distance, against_size = figure.subplots(1, 2)
        _draw_radial(against_distance, profile, theme)
        _draw_windows(against_size, profile, theme)

    return plot(draw, (8.6, 2.7), f"{html.escape(name)}: strength against distance, and shares of windows")


def _draw_radial(axis, profile: LayerProfile, theme: Theme) -> None:
    tokens = profile.grid[0] * profile.grid[1]
    seen = profile.pairs > 0
    distance = profile.distance[seen]
    heads = torch.stack([timestep.radial for timestep in profile.timesteps]).mean(0)
    for head in heads:
        axis.plot(distance, tokens * head[seen], color=theme.text, alpha=0.22, linewidth=0.8)
    axis.plot([], [], color=theme.text, alpha=0.4, linewidth=0.8, label="each head")
    axis.plot(distance, tokens * profile.radial[seen], color=theme.first, linewidth=2, label="mean")
    fine = torch.linspace(0, float(distance.max()), 400, dtype=torch.float64)
    fit = profile.fit
    label = f"fit: {fit.form}, R² {fit.r2:.2f}"
    axis.plot(
        fine, tokens * (fit.bias + fit.local(fine)), color=theme.second, linewidth=1.5, linestyle="--", label=label
    )
    axis.axhline(tokens * fit.bias, color=theme.second, linewidth=1, linestyle=":", label="its bias")
    axis.axvspan(
        0, profile.kernel_size / 2, color=theme.first, alpha=0.12, linewidth=0, label=f"K = {profile.kernel_size}"
    )
    axis.set_xlim(0, float(distance.max()))
    axis.set_ylim(bottom=0)
    axis.set_xlabel("distance from the query, tokens", fontsize=9, color=theme.text)
    axis.set_title("attention, times an equal share", fontsize=10, color=theme.text)
    _finish(axis, theme)


def _draw_windows(axis, profile: LayerProfile, theme: Theme) -> None:
    sizes = profile.window_sizes
    share = torch.cat([timestep.window_share for timestep in profile.timesteps]).mean(0)
    explained = torch.cat([timestep.window_variance for timestep in profile.timesteps])
    axis.plot(sizes, share, color=theme.first, linewidth=2, marker="o", markersize=3, label="attention inside")
    label = "output explained by it and the mean"
    axis.plot(sizes, explained.mean(0), color=theme.second, linewidth=2, marker="s", markersize=3, label=label)
    axis.fill_between(sizes, explained.amin(0), explained.amax(0), color=theme.second, alpha=0.15, linewidth=0)
    axis.axvline(profile.kernel_size, color=theme.text, linewidth=1, alpha=0.6)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("window size K", fontsize=9, color=theme.text)
    axis.set_title("share", fontsize=10, color=theme.text)
    _finish(axis, theme)


def _finish(axis, theme: Theme) -> None:
    plain(axis, theme)
    axis.legend(fontsize=7.5, labelcolor=theme.text, frameon=False)


def _enlarge(cells: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Cells [h, w] with sharp edges, float32 [height, width]; size: width, height."""
    return np.asarray(Image.fromarray(cells.numpy().astype(np.float32)).resize(size, Image.Resampling.NEAREST))


def _outline(image: Image.Image, centre: tuple[float, float], kernel_size: int, cell: tuple[float, float]) -> None:
    """Mark the token at `centre` (row, column) and the K x K window around it; cell: height and width in pixels."""
    drawing = ImageDraw.Draw(image)
    for tokens, thickness in ((kernel_size, 2), (1, 1)):
        top, left = ((middle - tokens / 2) * side for middle, side in zip(centre, cell, strict=True))
        bottom, right = ((middle + tokens / 2) * side for middle, side in zip(centre, cell, strict=True))
        drawing.rectangle((left, top, right - 1, bottom - 1), outline=MARK, width=thickness)
