"""The folder that a fusion is saved to."""

from __future__ import annotations

import json
from pathlib import Path


def is_side_car(directory: Path, class_name: str) -> bool:
    """Whether nothing is lost when a side-car takes the place of `directory`: it is one already, or empty."""
    if not directory.is_dir():
        return False
    files = {entry.name for entry in directory.iterdir()}
    if not files:
        return True
    if "config.json" not in files or not all(name.endswith((".json", ".safetensors")) for name in files):
        return False
    return json.loads((directory / "config.json").read_text()).get("_class_name") == class_name
