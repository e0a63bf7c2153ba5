"""Which weights train, on which device, and how the others are stored."""

from __future__ import annotations

import torch
from diffusers import DiffusionPipeline

from ...conversion import DeltaConvFusion
from ...conversion.sites import denoiser_of
from ..config import DistillConfig
from .precision import DTYPES


def prepare_weights(
    pipe: DiffusionPipeline, fusion: DeltaConvFusion, config: DistillConfig, device: torch.device
) -> None:
    """Freeze everything but the blocks, bring the denoiser to `device`, and store its frozen weights as set.

    Raises:
        ValueError: the blocks are not float32.
    """
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.requires_grad_(False).eval()
    trained = list(fusion.requires_grad_(True).parameters())
    unfit = {parameter.dtype for parameter in trained} - {torch.float32}
    if unfit:
        raise ValueError(f"fusion: expected blocks in torch.float32, got {', '.join(map(str, unfit))}")
    denoiser = denoiser_of(pipe).to(device)
    _store_frozen(denoiser, trained, config.frozen_precision)
    if config.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    if config.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = True


def _store_frozen(denoiser: torch.nn.Module, trained: list[torch.nn.Parameter], precision: str) -> None:
    """Convert every weight of `denoiser` but the trained ones to float16 or bfloat16, in place."""
    if precision == "no":
        return
    kept = {id(parameter) for parameter in trained}
    for tensor in (*denoiser.parameters(), *denoiser.buffers()):
        if id(tensor) not in kept and tensor.is_floating_point():
            tensor.data = tensor.data.to(DTYPES[precision])
