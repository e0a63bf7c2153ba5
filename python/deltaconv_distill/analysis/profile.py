"""The result of an analysis, and its JSON form (profile.schema.json)."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..atomic import atomic_file
from ..record_files import load_record
from .fitting import Fit
from .records import Ablation, Example, LayerChange, LayerProfile, TimestepProfile

VERSION = 1
DIGITS = 5  # significant ones of a number in the file


@dataclass
class Profile:
    """The analysis of one denoiser: a `MeasuredProfile` that `DeltaConvFusion.convert` takes kernel sizes from.

    model: its class; settings: what was run, and how kernel sizes were chosen; machine: what it ran on, and when.
    """

    model: str
    layers: dict[str, LayerProfile]
    settings: dict[str, Any]
    machine: dict[str, Any]
    example: Example | None = None
    ablation: Ablation | None = None

    @property
    def kernel_sizes(self) -> Mapping[str, int]:
        """K by layer name."""
        return {name: layer.kernel_size for name, layer in self.layers.items()}

    @property
    def not_local(self) -> Mapping[str, str]:
        """The layers that a convolution and an average cannot stand in for, and why."""
        return {name: layer.not_local for name, layer in self.layers.items() if layer.not_local is not None}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the JSON file, numbers with five significant digits. Returns its path."""
        record = {"version": VERSION, **_plain(self)}
        text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        with atomic_file(path, "w") as file:
            file.write(text + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Read a file that `save` wrote.

        Raises:
            OSError: it cannot be read.
            ValueError: it is no profile; the message says where it breaks the schema.
        """
        return _profile(load_record(path, schema(), "attention profile"))


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a profile."""
    return json.loads((files(__package__) / "profile.schema.json").read_text(encoding="utf-8"))


def _profile(record: dict[str, Any]) -> Profile:
    example, ablation = record["example"], record["ablation"]
    return Profile(
        model=record["model"],
        layers={name: _layer(layer) for name, layer in record["layers"].items()},
        settings=record["settings"],
        machine=record["machine"],
        example=None if example is None else _example(example),
        ablation=None if ablation is None else _ablation(ablation),
    )


def _layer(record: dict[str, Any]) -> LayerProfile:
    values = _tensors(record, "distance", "pairs", "relative_map", "bias", "radial")
    values["grid"] = tuple(record["grid"])
    values["fit"] = Fit(**record["fit"])
    values["text_share"] = _optional(record.get("text_share"))
    values["timesteps"] = [_timestep(timestep) for timestep in record["timesteps"]]
    return LayerProfile(**values)


def _timestep(record: dict[str, Any]) -> TimestepProfile:
    plain = ("timestep", "fits", "field_sizes", "text_share")
    values = _tensors(record, *(entry.name for entry in fields(TimestepProfile) if entry.name not in plain))
    values["text_share"] = _optional(record.get("text_share"))
    values["fits"] = [Fit(**fit) for fit in record["fits"]]
    return TimestepProfile(**values)


def _example(record: dict[str, Any]) -> Example:
    return Example(
        prompt=record["prompt"],
        timestep=record["timestep"],
        image=_image(record["image"]),
        points=[(y, x) for y, x in record["points"]],
        maps=_tensors(record["maps"], *record["maps"]),
    )


def _ablation(record: dict[str, Any]) -> Ablation:
    layers = {name: LayerChange(**layer) for name, layer in record["layers"].items()}
    images = {name: _image(image) for name, image in record["images"].items()}
    return Ablation(**{**record, "layers": layers, "images": images})


def _image(text: str) -> Image.Image:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return image.convert("RGB")


def _optional(numbers: list[float] | None) -> Tensor | None:
    return None if numbers is None else torch.tensor(numbers, dtype=torch.float32)


def _tensors(record: dict[str, Any], *names: str) -> dict[str, Any]:
    """A copy of `record` with the named lists as float32 tensors."""
    return {**record, **{name: torch.tensor(record[name], dtype=torch.float32) for name in names}}


def _plain(value: Any) -> Any:
    """What json can write; images as PNG in base64."""
    if is_dataclass(value):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, Image.Image):
        buffer = io.BytesIO()
        value.save(buffer, format="PNG", optimize=True)
        return base64.b64encode(buffer.getvalue()).decode("ascii")
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
