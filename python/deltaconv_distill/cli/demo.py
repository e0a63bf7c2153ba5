"""`deltaconv demo`: everything once on the embedded teacher, in minutes, with a report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .errors import UserError
from .places import require_folder


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, default=Path("deltaconv-demo"), help="folder for the report and all it shows"
    )
    parser.add_argument("--minutes", type=float, default=4.0, help="distil for at most this long")
    parser.add_argument("--seed", type=int, default=0, help="of the blocks, the training and the pictures")


def run(options: argparse.Namespace) -> None:
    if options.minutes <= 0:
        raise UserError(f"--minutes: expected a positive number, got {options.minutes:g}")
    require_folder("--output", options.output)
    from ..demo import DemoSettings, run_demo

    try:
        figures = run_demo(options.output, DemoSettings(minutes=options.minutes, seed=options.seed))
    except FileExistsError as error:
        raise UserError(f"--{error}") from error
    print(summarise(figures))
    print(f"\nreport: {(options.output / 'report.html').resolve()}")


def summarise(figures: dict[str, Any]) -> str:
    """The figures that matter most, for a terminal."""
    lines = [f"\n{'':<10}{'noise error':>14}{'to teacher':>14}{'FD-EffNet real':>16}{'to teacher':>14}"]
    for key, row in figures["quality"].items():
        values = (row["noise_mse"], row["teacher_mse"], row["fd_real"], row["fd_teacher"])
        lines.append(f"{key:<10}{values[0]:>14.4g}{values[1]:>14.4g}{values[2]:>16.4g}{values[3]:>14.4g}")
    for time in figures["timing"]:
        lines.append(
            f"{time['size']}x{time['size']} pixels: {time['teacher_ms']:.1f} ms a step with self-attention, "
            f"{time['student_ms']:.1f} ms with ΔConvBlocks"
        )
    training = figures["training"]
    lines.append(f"{training['steps']} training steps in {training['seconds'] / 60:.1f} minutes")
    return "\n".join(lines)
