"""The folder that a fusion is saved to: config.json, weights in one form or several variants, and a model card."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

MODEL_CARD = "README.md"  # written anew with the weights, by whoever trained them
CONFIG = "config.json"

# Beside a denoiser's own files. diffusers looks for variants behind the first dot of every name there and needs one;
# the second name is the one of earlier versions.
SIDE_CAR_FOLDER = "deltaconv.fusion"
SIDE_CAR_FOLDERS = (SIDE_CAR_FOLDER, "deltaconv_fusion")

_WEIGHTS = re.compile(
    r"diffusion_pytorch_model(\.(?P<variant>[^.]+?))?(-\d{5}-of-\d{5})?\.(safetensors|bin)"
    r"(\.index(\.(?P<index_variant>[^.]+))?\.json)?"
)


def is_side_car(directory: Path, class_name: str) -> bool:
    """Whether nothing is lost when a side-car takes the place of `directory`: it is one already, or empty."""
    if not directory.is_dir():
        return False
    files = {entry.name for entry in directory.iterdir()}
    if not files:
        return True
    written = all(_WEIGHTS.fullmatch(name) or name in (CONFIG, MODEL_CARD) for name in files)
    if CONFIG not in files or not written:
        return False
    return _config(directory).get("_class_name") == class_name


def keep_what_stays_true(earlier: Path, new: Path, variant: str | None) -> None:
    """Copy from an earlier side-car what a new one of the same layers does not replace: other variants and the card."""
    if not earlier.is_dir() or not any(earlier.iterdir()) or _config(earlier) != _config(new):
        return
    for file in earlier.iterdir():
        weights = _WEIGHTS.fullmatch(file.name)
        replaced = weights and (weights["variant"] or weights["index_variant"]) == variant
        if not replaced and not (new / file.name).exists():
            shutil.copy2(file, new / file.name)


def saved_beside(folder: Path) -> Path | None:
    """The side-car in the folder that a converted denoiser, or a pipeline with it, was saved to; or None."""
    places = (folder / part / name for part in ("", "unet", "transformer") for name in SIDE_CAR_FOLDERS)
    return next((place for place in places if (place / CONFIG).is_file()), None)


def _config(directory: Path) -> dict[str, Any]:
    config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    return {key: value for key, value in config.items() if key not in ("_diffusers_version", "_name_or_path")}
