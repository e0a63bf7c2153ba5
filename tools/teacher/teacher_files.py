"""What training leaves: a pipeline's folder with its record, and a grid of samples to look at."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from teacher_data import EMPTY_CAPTION_RATE, KIND_RATE
from teacher_stage import Stage

PREVIEW = (
    "animal face", "animal face", "fruit", "fruit", "face", "heart", "vehicle", "vehicle",
    "flower", "bird", "animal", "food", "dessert", "strawberry", "penguin", "tiger face",
)  # fmt: skip


def save_pipeline(pipeline: Any, work: Path, stage: Stage, record: dict[str, Any], guidance: float) -> None:
    """Writes the pipeline (float16), its record, which this adds to, and a grid of samples, into `work`."""
    new = work / "pipeline.new"
    shutil.rmtree(new, ignore_errors=True)
    pipeline.save_pretrained(new)
    name_diffusers_class(pipeline, new)
    for weights in new.rglob("*.safetensors"):
        halve(weights)
    common = {
        "empty_captions": EMPTY_CAPTION_RATE,
        "kind_captions": KIND_RATE,
        "parameters": count_parameters(pipeline),
        "machine": f"{cpu_name()}, {torch.get_num_threads()} thread(s)",
        "torch": torch.__version__,
    }
    denoiser = {"steps": stage.step, "seconds": round(stage.seconds), "loss": stage.history}
    (new / "TRAINING.json").write_text(json.dumps({**record, **common, "denoiser": denoiser}, indent=1) + "\n")
    replace_folder(new, work / "pipeline")

    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(i) for i in range(len(PREVIEW))]
    out = pipeline(
        list(PREVIEW), num_inference_steps=20, guidance_scale=guidance, generator=generators, output_type="np"
    ).images
    save_grid((out * 255).round().astype(np.uint8), work / f"samples-{stage.step:06d}.png")


def name_diffusers_class(pipeline: Any, folder: Path) -> None:
    """Writes diffusers' own class into a saved pipeline's index, so that diffusers alone can open it too."""
    name = next(kind.__name__ for kind in type(pipeline).__mro__ if kind.__module__.startswith("diffusers."))
    path = folder / "model_index.json"
    index = {**json.loads(path.read_text()), "_class_name": name}
    path.write_text(json.dumps(index, indent=2) + "\n")


def count_parameters(pipeline: DiffusionPipeline) -> dict[str, int]:
    """By the names of the pipeline's components that have any."""
    modules = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    return {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}


def replace_folder(new: Path, old: Path) -> None:
    """Puts `new` where `old` is; readers see a whole folder except for the instant between two renames."""
    retired = old.with_name(old.name + ".retired")
    shutil.rmtree(retired, ignore_errors=True)
    if old.exists():
        old.rename(retired)
    new.rename(old)
    shutil.rmtree(retired, ignore_errors=True)


def save_grid(images: np.ndarray, path: Path, columns: int = 8, zoom: int = 3) -> None:
    """images: uint8 [N, H, W, 3]."""
    n, h, w, _ = images.shape
    sheet = Image.new("RGB", (columns * w, -(-n // columns) * h), "white")
    for i, image in enumerate(images):
        sheet.paste(Image.fromarray(image), (i % columns * w, i // columns * h))
    sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.NEAREST).save(path)


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def halve(path: Path) -> None:
    """Rewrites a safetensors file in float16 (half the size; loading upcasts)."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}
    save_file(state, path, metadata={"format": "pt"})
