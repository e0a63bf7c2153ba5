"""Draws the picture of docs/cuda/tensor_cores.md: a convolution as products with a banded matrix. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "cuda_banded.png"
KERNEL, ROWS, WIDTH, STEP = 9, 16, 8, 2  # K, rows of an operand, columns of results, rows between its rows
DEPTH = KERNEL + WIDTH - 1
TAPS = plt.get_cmap("summer", KERNEL)
GREY, RED, BLUE, LIGHT_RED, LIGHT_BLUE = "#d9d9d9", "#f4a582", "#67a9cf", "#fddbc7", "#d1e5f0"


def cell(axes: Axes, column: float, row: float, color, text: str = "", size: float = 5) -> None:
    axes.add_patch(Rectangle((column, row), 1, 1, facecolor=color, edgecolor="white", linewidth=0.4))
    if text:
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=size)


def prepare(axes: Axes, title: str, columns: float, rows: float) -> None:
    axes.set_title(title, fontsize=8, loc="left")
    axes.set_xlim(-0.6, columns)
    axes.set_ylim(rows, -2.2)
    axes.set_aspect("equal")
    axes.axis("off")


def draw_product(axes: Axes) -> None:
    """A T for one kernel row: 16 rows of the plane, the band, 8 columns of results."""
    prepare(axes, f"one kernel row of K = {KERNEL}: results += A T", 45, 17)
    for row in range(ROWS):
        for column in range(DEPTH):
            cell(axes, column, row, BLUE if column // 8 == 0 else LIGHT_BLUE)
        for column in range(WIDTH):
            cell(axes, 36 + column, row, RED)
    for row in range(DEPTH):
        for column in range(WIDTH):
            tap = row - column
            inside = 0 <= tap < KERNEL
            cell(axes, 21 + column, row, TAPS(tap) if inside else GREY, f"{tap}" if inside else "", 4.5)
    for x, text in ((8, "A: 16 rows x 16 columns"), (25, "T[k][n] = w[k - n]"), (40, "results")):
        axes.text(x, -0.6, text, ha="center", fontsize=7)
    axes.text(18.5, 8, "x", ha="center", va="center", fontsize=12)
    axes.text(32.5, 8, "+=", ha="center", va="center", fontsize=12)
    for block in range(2):
        axes.text(4 + 8 * block, 16.8, f"block {block}", ha="center", fontsize=6)


def draw_rows(axes: Axes) -> None:
    """Which rows of the plane A holds, and which accumulators and kernel rows it serves."""
    prepare(axes, f"rows: A at t serves all i + kh = t (step {STEP})", 25, 17)
    for row in range(ROWS):
        cell(axes, 0, row, RED if row % STEP == 0 else LIGHT_RED, f"i={row % STEP}")
        for t in range(4):
            if row >= t and (row - t) % STEP == 0:
                cell(axes, 4 + 5 * t, row, BLUE, f"m={(row - t) // STEP}", 4.5)
            else:
                cell(axes, 4 + 5 * t, row, GREY)
    axes.text(0.5, -0.6, "results", ha="center", fontsize=7)
    for t in range(4):
        pairs = " ".join(f"({i},{t - i})" for i in range(STEP) if t >= i)
        axes.text(4.5 + 5 * t, -1.3, f"A, t={t}", ha="center", fontsize=7)
        axes.text(4.5 + 5 * t, -0.4, f"(i,kh) {pairs}", ha="center", fontsize=4.5)


def draw_lanes(axes: Axes) -> None:
    """What each lane holds of T's first two blocks: the pair of taps that begins with 2q - g + 8b."""
    prepare(axes, "T in registers: lane 4g + q holds the pair of taps from 2q - g + 8b", 24, 10.5)
    for block in range(2):
        for g in range(8):
            for q in range(4):
                first = 2 * q - g + 8 * block
                inside = -1 <= first < KERNEL
                color = TAPS(min(max(first, 0), KERNEL - 1)) if inside else GREY
                cell(axes, 2 + 11 * block + 2 * q, g + 1, color)
                axes.patches[-1].set_width(2)
                axes.text(
                    3 + 11 * block + 2 * q, g + 1.5, f"{first}" if inside else "", ha="center", va="center", fontsize=5
                )
            axes.text(1.4 + 11 * block, g + 1.5, f"g={g}", ha="right", va="center", fontsize=5)
        for q in range(4):
            axes.text(3 + 11 * block + 2 * q, 0.7, f"q={q}", ha="center", fontsize=5)
        axes.text(6 + 11 * block, -0.5, f"b = {block}", ha="center", fontsize=7)


def main() -> None:
    figure = plt.figure(figsize=(9, 6.2), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 0.95))
    draw_product(figure.add_subplot(grid[0, :]))
    draw_rows(figure.add_subplot(grid[1, 0]))
    draw_lanes(figure.add_subplot(grid[1, 1]))
    figure.savefig(PICTURE, dpi=140)


if __name__ == "__main__":
    main()
