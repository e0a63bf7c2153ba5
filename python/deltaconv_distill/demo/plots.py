"""The demo's pictures, each for a light and for a dark page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

from ..analysis.theme import DARK, DPI, LIGHT, Theme, plain
from ..distillation import StepRecord
from .timing import StepTime
from .variants import STUDENT, TEACHER, VARIANTS

SMOOTHING = 0.96


THEMES = {"": LIGHT, "-dark": DARK}  # by the end of the file's name


def draw_grid(samples: Mapping[str, np.ndarray], prompts: Sequence[str], folder: Path, name: str = "grid") -> None:
    """One row for each variant, one column for each prompt; samples: variant key -> uint8 [len(prompts), H, W, 3]."""
    for suffix, theme in THEMES.items():
        figure = Figure(figsize=(1.9 + 1.12 * len(prompts), 0.5 + 1.16 * len(VARIANTS)), facecolor=theme.page)
        axes = figure.subplots(
            len(VARIANTS),
            len(prompts),
            squeeze=False,
            gridspec_kw={
                "left": 1.85 / figure.get_figwidth(),
                "right": 0.995,
                "top": 0.9,
                "bottom": 0.01,
                "wspace": 0.05,
                "hspace": 0.05,
            },
        )
        for row, variant in zip(axes, VARIANTS, strict=True):
            for axis, image in zip(row, samples[variant.key], strict=True):
                axis.imshow(_enlarge(image), interpolation="none")
                axis.set_axis_off()
            _label_row(figure, row[0], variant.title, variant.note, theme)
        for axis, prompt in zip(axes[0], prompts, strict=True):
            axis.set_title(
                prompt.replace(" ", "\n", 1) if len(prompt) > 12 else prompt, fontsize=9, color=theme.text, pad=4
            )
        _save(figure, folder / f"{name}{suffix}.png", theme)


def draw_losses(records: Sequence[StepRecord], folder: Path, name: str = "losses") -> None:
    """Every term against the step, as it was and smoothed: that of stage 1, if there is one, then the three others."""
    panels = {
        "local": "stage 1: attention's outputs",
        "noise": "student vs. true noise",
        "kd": "student vs. teacher",
        "feat": "hidden states, all layers",
    }
    series = {
        term: [(record.step, record.terms[term]) for record in records if term in record.terms and not record.skipped]
        for term in panels
    }
    drawn = {term: points for term, points in series.items() if points}
    for suffix, theme in THEMES.items():
        figure = Figure(figsize=(10, 2.7), facecolor=theme.page, layout="constrained")
        for axis, (term, points) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
            steps, values = zip(*points, strict=True)
            axis.plot(steps, values, color=STUDENT.colour, alpha=0.25, linewidth=0.7)
            axis.plot(steps, _smooth(values), color=STUDENT.colour, linewidth=1.8)
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.set_title(panels[term], fontsize=9, color=theme.text)
            axis.set_xlabel("training step", fontsize=9, color=theme.text)
            plain(axis, theme)
        _save(figure, folder / f"{name}{suffix}.png", theme)


def draw_times(times: Sequence[StepTime], folder: Path, name: str = "times") -> None:
    """Milliseconds of one denoising step, a panel for each size: their scales differ too much to share one."""
    for suffix, theme in THEMES.items():
        figure = Figure(figsize=(8, 2.2), facecolor=theme.page, layout="constrained")
        for axis, time in zip(np.atleast_1d(figure.subplots(1, len(times))), times, strict=True):
            bars = axis.barh(
                [1, 0], [time.teacher_ms, time.student_ms], color=[TEACHER.colour, STUDENT.colour], height=0.62
            )
            axis.bar_label(bars, fmt="%.3g ms", padding=3, fontsize=9, color=theme.text)
            axis.set_yticks([1, 0], ["Teacher", "Student"])
            axis.set_xlim(0, 1.28 * max(time.teacher_ms, time.student_ms))
            axis.set_title(f"{time.size}×{time.size} pixels, {time.tokens} tokens", fontsize=10, color=theme.text)
            plain(axis, theme)
        _save(figure, folder / f"{name}{suffix}.png", theme)


def _enlarge(image: np.ndarray, side: int = 192) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


def _label_row(figure: Figure, first: Axes, title: str, note: str, theme: Theme) -> None:
    box = first.get_position()
    middle, edge = (box.y0 + box.y1) / 2, box.x0 - 0.012
    figure.text(edge, middle + 0.02, title, ha="right", va="center", fontsize=11, fontweight="bold", color=theme.text)
    figure.text(edge, middle - 0.03, note, ha="right", va="center", fontsize=8, color=theme.text, alpha=0.75)


def _smooth(values: Sequence[float]) -> list[float]:
    """Exponential moving average, started from the mean of the first values so that it does not hang on one of them."""
    average, smoothed = float(np.mean(values[:10])), []
    for value in values:
        average = SMOOTHING * average + (1 - SMOOTHING) * value
        smoothed.append(average)
    return smoothed


def _save(figure: Figure, path: Path, theme: Theme) -> None:
    figure.savefig(path, dpi=DPI, facecolor=theme.page)
