"""The demo's folder: everything that the experiment leaves behind, written at once or not at all."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from ..analysis import Profile
from ..atomic import atomic_directory
from ..distillation import EmojiImages
from .experiment import Outcome, experiment
from .plots import draw_grid, draw_losses, draw_times
from .report import write_report
from .settings import DemoSettings
from .stages import COMPARE, STAGES, WRITE, Stages

FIGURES_FILE = "figures.json"
PROFILE_FILE = "profile.json"
FUSION_FOLDER = "fusion"


def run_demo(
    output: Path,
    settings: DemoSettings,
    pipe: DiffusionPipeline | None = None,
    images: EmojiImages | None = None,
    began: float | None = None,
) -> dict[str, Any]:
    """Run the demo and leave its folder at `output`, which is whole or, after an error, not there.

    Args:
        output: the folder; an earlier demo's is replaced.
        settings: what to do, and for how long.
        pipe, images: another teacher than the embedded one, and what it was trained on.
        began: when the settings' minutes began, by time.perf_counter(); now, unless given.

    Returns:
        The content of figures.json.

    Raises:
        FileExistsError: `output` holds something that is not a demo.
    """
    _refuse_foreign(output)
    stage = Stages(tuple(title for title in STAGES if title != COMPARE or settings.distance_samples), began)
    outcome = experiment(settings, stage, pipe, images)
    with atomic_directory(output) as folder:
        with stage(WRITE):
            _draw(outcome, settings, folder)
        figures = {**outcome.figures, "stages": [asdict(time) for time in stage.times], "seconds": stage.elapsed}
        _write(figures, outcome.profile, folder)
    return figures


def _draw(outcome: Outcome, settings: DemoSettings, folder: Path) -> None:
    outcome.fusion.save_pretrained(folder / FUSION_FOLDER)
    outcome.profile.save(folder / PROFILE_FILE)
    draw_grid(outcome.pictured, settings.prompts, folder)
    draw_losses(outcome.records, folder)
    draw_times(outcome.times, folder)


def _write(figures: dict[str, Any], profile: Profile, folder: Path) -> None:
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    (folder / FIGURES_FILE).write_text(text + "\n", encoding="utf-8")
    write_report(figures, profile, folder)


def _refuse_foreign(output: Path) -> None:
    if output.exists() and not (output.is_dir() and ((output / FIGURES_FILE).is_file() or not any(output.iterdir()))):
        raise FileExistsError(f"output: expected a new folder or an earlier demo's, got {output}")
