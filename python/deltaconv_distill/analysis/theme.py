"""How plots look on a light and on a dark page, and how pictures get into a page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

DPI = 160
PALETTE = 128  # colours of a plot


@dataclass(frozen=True)
class Theme:
    """Colours of the page, text and grid lines, and of two kinds of data (Okabe and Ito's, lighter on dark)."""

    page: str
    text: str
    faint: str
    first: str
    second: str


LIGHT = Theme("#ffffff", "#1d2330", "#c9ced8", "#0072b2", "#d55e00")
DARK = Theme("#12161d", "#e6e9ef", "#3a4250", "#56a8dc", "#f0802e")


def plain(axis: Axes, theme: Theme) -> None:
    """Two spines, faint grid lines, the theme's colours."""
    axis.set_facecolor(theme.page)
    axis.tick_params(colors=theme.text, labelsize=8, which="both")
    axis.grid(True, color=theme.faint, linewidth=0.5, alpha=0.6)
    axis.set_axisbelow(True)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)


def plot(draw: Callable[[Figure, Theme], None], size: tuple[float, float], description: str) -> str:
    """A figure of `size` inches for light pages and its twin for dark ones, as HTML."""
    light, dark = (_data_url(_render(draw, size, theme), "png") for theme in (LIGHT, DARK))
    return (
        f'<picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{light}" alt="{html.escape(description)}"></picture>'
    )


def picture(image: Image.Image, description: str, exact: bool = True) -> str:
    """An image that looks the same on both pages, as HTML: a PNG if `exact`, else a JPEG of a fraction of its size."""
    buffer, kind = io.BytesIO(), "png" if exact else "jpeg"
    image.save(buffer, format=kind, optimize=True, **({} if exact else {"quality": 90, "subsampling": 0}))
    return f'<img src="{_data_url(buffer.getvalue(), kind)}" alt="{html.escape(description)}">'


def _render(draw: Callable[[Figure, Theme], None], size: tuple[float, float], theme: Theme) -> bytes:
    figure = Figure(figsize=size, facecolor=theme.page, layout="constrained")
    draw(figure, theme)
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, facecolor=theme.page)
    # a palette is enough for lines and text, in a fifth of the bytes
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return small.getvalue()


def _data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")
