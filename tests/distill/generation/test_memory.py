"""Memory beyond the training size: guidance without its batch, and what a denoising step is estimated to need."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.cli import main
from deltaconv_distill.conversion.known_models import build_denoiser
from deltaconv_distill.conversion.model_inputs import random_inputs
from deltaconv_distill.generation import calls_of_one_sample, denoiser_memory, plan_generation
from deltaconv_distill.generation import plan as planning
from deltaconv_distill.generation.memory import PeakBytes
from diffusers.hooks import apply_group_offloading
from tiny_pipelines import DENOISERS, denoiser_inputs, tiny_sd, tiny_sd_unet
from torch.utils._pytree import tree_leaves

from deltaconv_kernels.testing import relative_error


@torch.no_grad()
@pytest.mark.parametrize("converted", [True, False], ids=["blocks", "attention"])
@pytest.mark.parametrize("name", DENOISERS)
def test_calls_of_one_sample_are_exact(name: str, converted: bool) -> None:
    """In float64, where other kernels for another batch cannot hide a mistake; every call sees one sample."""
    denoiser = DENOISERS[name]().double()
    if converted:
        DeltaConvFusion.convert(denoiser, kernel_size=3)
    inputs = denoiser_inputs(denoiser, 6, 10, batch=3)
    kind = type(denoiser)
    whole = denoiser(**inputs)
    batches: list[int] = []
    handle = denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: batches.append(len(kwargs["encoder_hidden_states"])), with_kwargs=True
    )
    with calls_of_one_sample(denoiser):
        parts = denoiser(**inputs)
        tuples = denoiser(**inputs, return_dict=False)
    handle.remove()
    assert batches == [1] * 6
    assert type(parts) is type(whole)
    assert type(denoiser) is kind
    for result in (parts.to_tuple(), tuples):
        for one, other in zip(tree_leaves(result), tree_leaves(whole.to_tuple()), strict=True):
            assert relative_error(one, other) <= 1e-12


@torch.no_grad()
@pytest.mark.parametrize("offload", ["model", "sequential", "group"])
def test_calls_of_one_sample_on_an_offloaded_model(offload: str) -> None:
    """With the CPU as the accelerator; the estimate of memory does not touch what is offloaded."""
    unet = tiny_sd_unet()
    DeltaConvFusion.convert(unet, kernel_size=3)
    inputs = denoiser_inputs(unet, 8, 8)
    whole = unet(**inputs).sample
    memory = denoiser_memory(unet, 8, 8)
    cpu = torch.device("cpu")
    if offload == "model":
        cpu_offload_with_hook(unet, "cpu")
    elif offload == "sequential":
        cpu_offload(unet, cpu)
    else:
        apply_group_offloading(unet, onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    assert denoiser_memory(unet, 8, 8) == memory
    with calls_of_one_sample(unet):
        assert relative_error(unet(**inputs).sample, whole) <= 1e-6
    assert relative_error(unet(**inputs).sample, whole) == 0


def test_scalars_and_shared_arguments_are_not_split() -> None:
    class Sum(torch.nn.Module):
        def forward(self, sample: torch.Tensor, timestep: torch.Tensor, extra: dict[str, Any]) -> torch.Tensor:
            assert timestep.dim() == 0
            assert extra["table"].shape == (7, 1)
            return sample + extra["scales"][0][:, None, None, None] + timestep + extra["table"].sum()

    module = Sum()
    arguments = (
        torch.zeros(3, 1, 2, 2),
        torch.tensor(10.0),
        {"scales": [torch.arange(3.0)], "table": torch.ones(7, 1)},
    )
    with calls_of_one_sample(module):
        result = module(*arguments)
    assert result[:, 0, 0, 0].tolist() == [17.0, 18.0, 19.0]


def test_an_error_inside_gives_the_denoiser_back() -> None:
    denoiser = tiny_sd_unet()
    kind = type(denoiser)
    with pytest.raises(RuntimeError, match="stop"), calls_of_one_sample(denoiser):
        raise RuntimeError("stop")
    assert type(denoiser) is kind


def test_free_memory_decides_on_guidance(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_sd()
    for_one, for_two = (denoiser_memory(pipe.unet, 32, 64, batch) for batch in (1, 2))
    for free, batched, memory in ((2 * for_two, True, for_two), (for_two, False, for_one)):
        monkeypatch.setattr(planning, "free_memory", lambda device, free=free: free)
        plan = plan_generation(pipe, 64, 128)
        assert (plan.batch_guidance, plan.memory) == (batched, memory)
    assert plan_generation(pipe, 64, 128, guidance=False).memory is None
    assert "one sample at a time" in str(plan)


@torch.no_grad()
@pytest.mark.parametrize("converted", [True, False], ids=["blocks", "attention"])
@pytest.mark.parametrize("name", ["sd", "sdxl", "pixart"])
def test_memory_is_that_of_a_real_run(name: str, converted: bool) -> None:
    """The same count on tensors with data: a twin without data goes through the same operators."""
    denoiser = DENOISERS[name]()
    if converted:
        DeltaConvFusion.convert(denoiser, kernel_size=3)
    with PeakBytes([*denoiser.parameters(), *denoiser.buffers()]) as memory:
        denoiser(**random_inputs(denoiser, 16, 24, batch=2))
    assert denoiser_memory(denoiser, 16, 24, batch=2) == pytest.approx(memory.peak, rel=0.02)


def test_command_that_estimates_memory(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["flops", "--model", "embedded", "--sizes", "32,64", "--memory"]
    assert main([*arguments, "float32", "--json"]) == 0
    single = json.loads(capsys.readouterr().out)["memory_bytes"]
    assert main([*arguments, "bfloat16", "--json"]) == 0
    half = json.loads(capsys.readouterr().out)["memory_bytes"]
    assert single["64"] == pytest.approx(4 * single["32"], rel=0.1)
    assert half["64"] == pytest.approx(single["64"] / 2, rel=0.1)
    assert main([*arguments, "float32"]) == 0
    assert "one denoising step with ΔConvBlocks, float32, beside the weights (estimated)" in capsys.readouterr().out


def test_peak_is_what_is_alive_at_a_time() -> None:
    with PeakBytes() as memory:
        first = torch.zeros(100, dtype=torch.float32)
        second = first + 1
        del first
        view = second.view(10, 10)
        third = view * 2
        del second, view
        torch.ones(10)
    assert memory.peak == 800
    assert memory.alive == 400
    assert third.shape == (10, 10)


@pytest.mark.parametrize("name", ["sd15", "pixart-sigma"])
def test_memory_at_16384_pixels_costs_none(name: str) -> None:
    """And grows with the number of pixels, where the weights of self-attention would grow with its square."""
    denoiser = build_denoiser(name, dtype=torch.bfloat16)
    DeltaConvFusion.convert(denoiser)
    small, large = (denoiser_memory(denoiser, size // 8, size // 8) for size in (1024, 16384))
    assert large == pytest.approx(256 * small, rel=0.1)
