"""The model card of a trained fusion: README.md in the side-car's folder."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import diffusers
import torch

from ...atomic import atomic_file
from ...conversion import DeltaConvFusion
from ..config import DistillConfig
from .records import StepRecord

CARD_FILE = "README.md"
AVERAGED_STEPS = 100
PLACES = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint")  # settings that say nothing of the weights

TEMPLATE = """\
# ΔConvBlocks for {teacher}

The weights in this folder replace {layers} self-attentions of a `{denoiser}` by pyramids of gated depthwise
convolutions ([ΔConvFusion](https://arxiv.org/abs/2504.21292)); everything else is the teacher's and is not in here.

```python
from deltaconv_distill import DeltaConvFusion
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{source}")
DeltaConvFusion.from_pretrained("path/to/this/folder").attach(pipe)
```

| | |
| --- | --- |
| parameters trained | {parameters:,} |
| kernel sizes | {kernel_sizes} ({kernel_sizes_from}) |
| optimizer steps | {steps}, of which {skipped} were skipped as not finite |
| examples in a step | {global_batch} |
| seconds of training | {seconds:.0f} |
{losses}

Losses are means of the last {averaged} steps.

## Settings that differ from the paper's

{settings}

torch {torch_version}, diffusers {diffusers_version}.
"""


def write_card(
    folder: Path,
    fusion: DeltaConvFusion,
    config: DistillConfig,
    records: list[StepRecord],
    teacher: str | None,
    global_batch: int,
) -> Path:
    """Write the card beside the side-car in `folder`, with metadata as the hub reads them.

    Args:
        teacher: the hub id or folder of the teacher's pipeline.
        global_batch: examples in an optimizer step, over all processes.
    """
    from huggingface_hub import ModelCardData

    hub_id = None if teacher is None or Path(teacher).exists() else teacher  # a folder's name means nothing elsewhere
    name = hub_id or (Path(teacher).name if teacher else "an unnamed teacher")
    metadata = ModelCardData(
        library_name="diffusers", pipeline_tag="text-to-image", base_model=hub_id, tags=["deltaconv", "distillation"]
    )
    text = TEMPLATE.format(
        teacher=name,
        source=hub_id or "path/to/the/teacher",
        denoiser=fusion.config.denoiser,
        layers=len(fusion.config.layers),
        parameters=sum(parameter.numel() for parameter in fusion.parameters()),
        kernel_sizes=_counted([layer["kernel_size"] for layer in fusion.config.layers.values()]),
        kernel_sizes_from=fusion.config.kernel_sizes_from,
        steps=len(records),
        skipped=sum(record.skipped for record in records),
        global_batch=global_batch,
        seconds=sum(record.seconds for record in records),
        losses=_losses(records),
        averaged=min(AVERAGED_STEPS, len(records)),
        settings=_settings(config),
        torch_version=torch.__version__,
        diffusers_version=diffusers.__version__,
    )
    path = folder / CARD_FILE
    with atomic_file(path, "w") as file:
        file.write(f"---\n{metadata.to_yaml()}\n---\n\n{text}")
    return path


def _losses(records: list[StepRecord]) -> str:
    last = [record for record in records[-AVERAGED_STEPS:] if not record.skipped]
    names = last[-1].terms if last else {}
    means = {name: [record.terms[name] for record in last if name in record.terms] for name in names}
    return "\n".join(f"| loss, {name} | {sum(values) / len(values):.4g} |" for name, values in means.items())


def _settings(config: DistillConfig) -> str:
    defaults: dict[str, Any] = {field.name: field.default for field in fields(DistillConfig)}
    changed = {name: value for name, value in asdict(config).items() if value != defaults[name]}
    return "\n".join(f"- `{name}`: {value}" for name, value in changed.items() if name not in PLACES) or "None."


def _counted(sizes: list[int]) -> str:
    return ", ".join(f"{size} (x{sizes.count(size)})" for size in sorted(set(sizes)))
