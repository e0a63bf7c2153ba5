"""One denoising step of a whole model: SDPA self-attention against ΔConvBlocks at rising resolutions.

Weights are random: they do not change what is computed. A CPU runs Stable Diffusion 1.5 in float32 as far as it reaches
in a minute or so; a GPU runs all models in bfloat16 until self-attention no longer fits its memory or patience.
DELTACONV_BENCH_SIZES (such as "512,1024") names other sizes, in pixels.
"""

from __future__ import annotations

import os
from functools import lru_cache

import pytest
import torch
from break_even import break_even
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.conversion.known_models import VAE_SCALE, build_denoiser
from deltaconv_distill.conversion.model_inputs import random_inputs
from deltaconv_distill.generation import denoiser_memory
from peak_memory import peak_memory
from recording import record
from timing import interleaved_medians
from torch import Tensor

import deltaconv_kernels as dk
from deltaconv_kernels.testing import relative_error

ON_GPU = torch.cuda.is_available()
MODELS = ("sd15", "sdxl", "pixart-sigma") if ON_GPU else ("sd15",)
DEFAULT_SIZES = "256,512,1024,2048,4096,8192,16384" if ON_GPU else "128,192,256,512"
SIZES = tuple(int(size) for size in os.environ.get("DELTACONV_BENCH_SIZES", DEFAULT_SIZES).split(","))
LARGEST_ATTENTION = {"sd15": 8192, "sdxl": 8192, "pixart-sigma": 8192}  # pixels; beyond, a step takes minutes
DTYPE = torch.bfloat16 if ON_GPU else torch.float32
SIDES = ("attention", "blocks")
ERROR_BUDGET = 5e-2 if ON_GPU else 1e-4  # a whole denoiser: rounding grows from layer to layer


@lru_cache(maxsize=1)
def converted(name: str) -> tuple[torch.nn.Module, DeltaConvFusion]:
    torch.manual_seed(0)
    denoiser = build_denoiser(name, "cuda" if ON_GPU else "cpu", DTYPE)
    return denoiser, DeltaConvFusion.convert(denoiser)


@pytest.fixture(scope="module")
def ratios() -> dict[str, dict[int, float]]:
    """Attention's time over the blocks', by model and size in pixels, as far as this run has come."""
    return {name: {} for name in MODELS}


@pytest.mark.parametrize("pixels", SIZES)
@pytest.mark.parametrize("name", MODELS)
def test_denoising_step(benchmark, add_row, ratios, name, pixels):
    denoiser, fusion = converted(name)
    inputs = random_inputs(denoiser, pixels // VAE_SCALE, pixels // VAE_SCALE)

    @torch.no_grad()
    def student() -> Tensor:
        return denoiser(**inputs).sample

    def teacher() -> Tensor:
        with fusion.teacher():
            return student()

    if pixels == SIZES[0]:
        with dk.use_backend("reference"):
            expected = student()
        assert relative_error(student(), expected) <= ERROR_BUDGET
    functions = {"blocks": student}
    if pixels <= LARGEST_ATTENTION[name]:
        functions["attention"] = teacher
    medians = interleaved_medians(functions, seconds=4, least_rounds=1 if ON_GPU else 3)
    memory = {side: peak_memory(function) for side, function in functions.items()}
    benchmark.pedantic(student, rounds=1)
    latent = pixels // VAE_SCALE
    flops = fusion.report.flops(latent, latent)
    planned = denoiser_memory(denoiser, latent, latent)
    ratio = medians["attention"] / medians["blocks"] if "attention" in medians else None
    if ratio:
        ratios[name][pixels] = ratio
    fields = {
        "model": name,
        "pixels": pixels,
        "dtype": str(DTYPE).removeprefix("torch."),
        "seconds": medians,
        "ratio_to_attention": ratio,
        "peak_bytes": memory,
        "planned_bytes": planned,
        "flops": vars(flops),
        "break_even_pixels": break_even(ratios[name]),
    }
    benchmark.extra_info.update(fields)
    record(kind="denoising", **fields)
    add_row(
        f"one denoising step, batch 1, {str(DTYPE).removeprefix('torch.')}",
        model=name,
        pixels=str(pixels),
        **{f"{side}, s": f"{medians[side]:.3f}" if side in medians else "-" for side in SIDES},
        **{f"{side}, GB": f"{memory[side] / 1e9:.2f}" if memory.get(side) else "-" for side in SIDES},
        **{"planned, GB": f"{planned / 1e9:.2f}", "vs attention": f"{ratio:.2f}x" if ratio else "-"},
        **{"break-even, pixels": break_even(ratios[name])},
    )
