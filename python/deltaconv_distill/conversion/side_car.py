"""The folder that a fusion is saved to."""

from __future__ import annotations

import json
from pathlib import Path

MODEL_CARD = "README.md"  # written anew with the weights, by whoever trained them


def is_side_car(directory: Path, class_name: str) -> bool:
    """Whether nothing is lost when a side-car takes the place of `directory`: it is one already, or empty."""
    if not directory.is_dir():
        return False
    files = {entry.name for entry in directory.iterdir()}
    if not files:
        return True
    written = all(name.endswith((".json", ".safetensors")) or name == MODEL_CARD for name in files)
    if "config.json" not in files or not written:
        return False
    return json.loads((directory / "config.json").read_text()).get("_class_name") == class_name
