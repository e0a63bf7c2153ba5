"""`deltaconv demo`: everything once on an embedded teacher, in minutes, with a report."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from .errors import UserError
from .places import require_folder


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, default=Path("deltaconv-demo"), help="folder for the report and all it shows"
    )
    parser.add_argument(
        "--teacher",
        choices=("unet", "mmdit"),
        default="unet",
        help="shaped as Stable Diffusion, or as Stable Diffusion 3 with joint attention and flow matching",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=6.0,
        help="of the whole run; distilling takes what the other parts leave, and at least half",
    )
    parser.add_argument(
        "--skip-distances",
        action="store_true",
        help="do not generate the 384 images that distances to the emoji and to the teacher's images are computed on",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the blocks, the training and the pictures")


def run(options: argparse.Namespace) -> None:
    if options.minutes <= 0:
        raise UserError(f"--minutes: expected a positive number, got {options.minutes:g}")
    require_folder("--output", options.output)
    began = time.perf_counter()  # before the imports, which take seconds
    from ..demo import run_demo, settings_for, summarise

    settings = settings_for(options.teacher, minutes=options.minutes, seed=options.seed)
    if options.skip_distances:
        settings = replace(settings, distance_samples=0)
    try:
        figures = run_demo(options.output, settings, began=began)
    except FileExistsError as error:
        raise UserError(f"--{error}") from error
    print(summarise(figures))
    print(f"\nreport: {(options.output / 'report.html').resolve()}")
