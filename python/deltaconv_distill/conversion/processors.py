"""Attention processors on replaced self-attentions: what they do there has no effect, and is said or refused.

Processors stay on the teacher's attentions, so `fusion.teacher()` and `detach()` have them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diffusers import ModelMixin
from diffusers.models import attention_processor as processors
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_cogview4 import CogView4AttnProcessor
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from diffusers.models.transformers.transformer_flux2 import Flux2AttnProcessor, Flux2ParallelSelfAttnProcessor
from diffusers.models.transformers.transformer_lumina2 import Lumina2AttnProcessor2_0
from diffusers.models.transformers.transformer_qwenimage import QwenDoubleStreamAttnProcessor2_0
from diffusers.models.transformers.transformer_z_image import ZSingleStreamAttnProcessor
from torch import nn

from .routing import TEACHER, StandIn

if TYPE_CHECKING:
    from .hooks import Control

logger = logging.getLogger(__name__)

# These compute plain attention, each in its own way. IP-Adapters put them on self-attentions too.
PLAIN = (
    processors.AttnAddedKVProcessor,
    processors.AttnAddedKVProcessor2_0,
    processors.AttnProcessor,
    processors.AttnProcessor2_0,
    processors.AttnProcessorNPU,
    processors.AuraFlowAttnProcessor2_0,
    processors.FusedAuraFlowAttnProcessor2_0,
    processors.FusedHunyuanAttnProcessor2_0,
    processors.HunyuanAttnProcessor2_0,
    processors.FusedJointAttnProcessor2_0,
    processors.JointAttnProcessor2_0,
    processors.LuminaAttnProcessor2_0,
    CogView4AttnProcessor,
    Flux2AttnProcessor,
    Flux2ParallelSelfAttnProcessor,
    Lumina2AttnProcessor2_0,
    FluxAttnProcessor,
    QwenDoubleStreamAttnProcessor2_0,
    ZSingleStreamAttnProcessor,
    processors.FusedAttnProcessor2_0,
    processors.SlicedAttnAddedKVProcessor,
    processors.SlicedAttnProcessor,
    processors.XFormersAttnAddedKVProcessor,
    processors.XFormersAttnProcessor,
    processors.XLAFlashAttnProcessor2_0,
)

# Perturbed-attention guidance (PAG) replaces the attention map, self-attention guidance (SAG) reads it.
GUIDANCE = {
    "PAGIdentitySelfAttnProcessor2_0": "perturbed-attention guidance; call the pipeline with pag_scale=0",
    "PAGCFGIdentitySelfAttnProcessor2_0": "perturbed-attention guidance; call the pipeline with pag_scale=0",
    "PAGJointAttnProcessor2_0": "perturbed-attention guidance; call the pipeline with pag_scale=0",
    "PAGCFGJointAttnProcessor2_0": "perturbed-attention guidance; call the pipeline with pag_scale=0",
    "CrossAttnStoreProcessor": "self-attention guidance; use StableDiffusionPipeline.from_pipe(pipe)",
}


class GuidanceCheck:
    """Forward pre-hook of a converted denoiser: refuses guidance by maps of self-attentions that do not run."""

    def __init__(self, control: Control, attentions: Sequence[Attention]) -> None:
        self.control = control
        self.attentions = list(attentions)

    def __call__(self, denoiser: nn.Module, args: Any) -> None:
        if self.control.now.mode == TEACHER:
            return
        for attention in self.attentions:
            if isinstance(attention, StandIn) and type(attention.processor).__name__ in GUIDANCE:
                self.refuse(type(attention.processor).__name__)

    def refuse(self, name: str) -> None:
        """The pipeline would have put the plain processors back at its end: without them its next call fails too."""
        for attention in self.attentions:
            if (kind := type(attention.processor).__name__) in GUIDANCE:
                plain = processors.JointAttnProcessor2_0 if "Joint" in kind else processors.AttnProcessor2_0
                attention.processor = plain()
        raise RuntimeError(
            f"{name}: ΔConvBlocks have no attention map for {GUIDANCE[name]}, apply it to layers that were left out "
            "with exclude=, or run the pipeline inside fusion.teacher()"
        )


def report_unused(denoiser: ModelMixin) -> None:
    """Warn of processors with another purpose than plain attention where a ΔConvBlock runs in their place."""
    unused = [
        type(module.processor).__name__
        for module in denoiser.modules()
        if isinstance(module, StandIn) and type(module.processor) not in PLAIN
    ]
    if unused:
        logger.warning(
            f"{len(unused)} attention processors ({', '.join(sorted(set(unused)))}) are on self-attentions that "
            "ΔConvBlocks stand in for, and act only in teacher() and after detach()"
        )


def set_attn_processor(denoiser: ModelMixin, processor: Any) -> None:
    """While attached: as the class does it, with a report."""
    type(denoiser).set_attn_processor(denoiser, processor)
    report_unused(denoiser)
