"""The examples of docs/compatibility.md run, in their order, on tiny models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from diffusers import DDIMScheduler
from safetensors.torch import save_file
from test_compatibility_adapters import IMAGE_WIDTH, ip_adapter, lora_weights, plain_projection
from tiny_pipelines import tiny_controlnet, tiny_sd

PAGE = Path(__file__).parents[3] / "docs" / "compatibility.md"


@pytest.fixture
def two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipelines denoise in two steps, whatever they are asked for."""
    set_timesteps = DDIMScheduler.set_timesteps
    monkeypatch.setattr(DDIMScheduler, "set_timesteps", lambda scheduler, steps, device: set_timesteps(scheduler, 2))


@pytest.mark.usefixtures("two_steps")
def test_examples_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = tiny_sd()
    save_file(lora_weights(pipe.unet), tmp_path / "pytorch_lora_weights.safetensors")
    adapter = ip_adapter(pipe.unet, plain_projection())
    (tmp_path / "models").mkdir()
    flat = {f"{part}.{key}": value for part, state in adapter.items() for key, value in state.items()}
    save_file(flat, tmp_path / "models" / "ip-adapter.safetensors")
    names = {
        "DeltaConvFusion": DeltaConvFusion,
        "pipe": pipe,
        "fusion": DeltaConvFusion.convert(pipe, kernel_size=3),
        "controlnet": tiny_controlnet(),
        "control_image": torch.ones(1, 3, 16, 16),
        "lora_folder": str(tmp_path),
        "ip_adapter_folder": str(tmp_path),
        "face": torch.randn(2, 1, IMAGE_WIDTH),  # without and with, for classifier-free guidance
    }
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), names)
        assert names["image"].size == (16, 16)
    assert "skipped 28 of 56 adapter layers" in caplog.text
