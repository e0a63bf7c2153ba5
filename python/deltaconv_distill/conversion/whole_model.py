"""FLOPs of a whole denoising step: what self-attention, or what stands in its place, is only a part of."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from diffusers import ModelMixin
from torch.utils.flop_counter import FlopCounterMode

from .fusion import DeltaConvFusion
from .model_inputs import random_inputs


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of one denoising step for one sample, without guidance."""

    attention: int  # with self-attention
    block: int  # with ΔConvBlocks

    @property
    def ratio(self) -> float:
        return self.attention / self.block


@torch.no_grad()
def step_flops(denoiser: ModelMixin, height: int, width: int) -> StepFlops:
    """Both, of a converted UNet or PixArt transformer, for latents of height x width and 77 text tokens.

    Torch counts the operators of a run on the meta device, where there is no data and every size is quick. On a CPU its
    counter misses scaled_dot_product_attention, whose kernel there has no formula; so the model runs there with its
    blocks, and the self-attentions are exchanged by the formulas of `flops`, which the tests compare with that counter.

    Raises:
        RuntimeError: the denoiser has no fusion.
    """
    fusion = DeltaConvFusion.attached_to(denoiser)
    if fusion is None:
        raise RuntimeError(f"denoiser: expected a converted {type(denoiser).__name__}")
    twin = _on_meta(denoiser, fusion)
    own = DeltaConvFusion.attached_to(twin)
    with FlopCounterMode(display=False) as counter, nullcontext() if own is None else own.at_size(height, width):
        twin(**random_inputs(twin, height, width))
    student = counter.get_total_flops()
    layers = fusion.report.flops(height, width)
    return StepFlops(attention=student - layers.block + layers.attention, block=student)


def _on_meta(denoiser: ModelMixin, fusion: DeltaConvFusion) -> ModelMixin:
    if denoiser.device.type == "meta":
        return denoiser
    with torch.device("meta"):
        twin = type(denoiser).from_config(denoiser.config).eval().to("meta")  # SVD's blends are made on the CPU
        DeltaConvFusion.from_config(fusion.config).attach(twin)
    return twin
