"""diffusers' modular pipelines are converted as the usual ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from diffusers import DiffusionPipeline, ModularPipeline, StableDiffusion3AutoBlocks, StableDiffusionXLAutoBlocks
from tiny_flow_pipelines import stable_diffusion_3
from tiny_pipelines import tiny_sdxl


def modular_of(pipe: DiffusionPipeline, blocks: Any) -> ModularPipeline:
    """A modular pipeline of a usual one's components."""
    modular = blocks.init_pipeline()
    components = pipe.components
    modular.update_components(**{name: components[name] for name in modular.component_names if components.get(name)})
    return modular


def draw(modular: Any) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    size = {"height": 16, "width": 16}
    return modular(
        prompt="a cat", num_inference_steps=2, generator=generator, output_type="np", output="images", **size
    )


@torch.no_grad()
@pytest.mark.parametrize(
    ("make", "blocks", "denoiser"),
    [
        (tiny_sdxl, StableDiffusionXLAutoBlocks, "unet"),
        (stable_diffusion_3, StableDiffusion3AutoBlocks, "transformer"),
    ],
)
def test_modular_pipelines(make: Any, blocks: Any, denoiser: str, tmp_path: Path) -> None:
    modular = modular_of(make(), blocks())
    teacher = draw(modular)
    torch.manual_seed(0)
    fusion = DeltaConvFusion.convert(modular, kernel_size=3)
    student = draw(modular)
    assert not np.array_equal(student, teacher)
    assert DeltaConvFusion.attached_to(getattr(modular, denoiser)) is fusion
    fusion.save_pretrained(tmp_path)
    fusion.detach()
    np.testing.assert_array_equal(draw(modular), teacher)
    assert DeltaConvFusion.attached_to(modular) is None
    DeltaConvFusion.from_pretrained(tmp_path).attach(modular)
    # weights that are read from a file lie at other addresses, by which matrix products choose the order of their sums
    np.testing.assert_allclose(draw(modular), student, atol=1e-5)
