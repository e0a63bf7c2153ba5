"""Kinds of AuraFlow: joint attention of two streams, then of one sequence, with registers before the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers import AuraFlowTransformer2DModel, ModelMixin
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..flops import TextStream
from ..grids import NOTED, InputGrid
from ..hooks import Control, SequenceTap
from .joint_attention import JointSite
from .site import Owner, Sites
from .text_first import TextFirst


class DeltaConvAuraFlowAttention(TextFirst, Attention):
    """The attention of an AuraFlowJointTransformerBlock or an AuraFlowSingleTransformerBlock."""

    stands_for = Attention

    def project_text(self, text: Tensor) -> Tensor:
        one_sequence = self.added_kv_proj_dim is None
        return self.project_out(text) if one_sequence else TextFirst.project_text(self, text)


@dataclass(frozen=True, eq=False)
class AuraFlowSite(JointSite):
    """`block.attn`. `registers`: learned tokens that the model puts before those of the text."""

    block: Any
    registers: int

    stand_in = DeltaConvAuraFlowAttention

    @property
    def feature_module(self) -> nn.Module:
        return self.block.norm2

    def tap_features(self, control: Control) -> RemovableHandle:
        return self.feature_module.register_forward_pre_hook(SequenceTap(control, self.name))

    def text_stream(self, tokens: int) -> TextStream:
        """Single blocks project the text's output too."""
        return TextStream(tokens + self.registers, single=False, last=False)


def find(denoiser: ModelMixin, name: str, module: nn.Module, sites: Sites) -> None:
    """Add the attentions of an AuraFlowTransformer2DModel."""
    if not isinstance(module, AuraFlowTransformer2DModel):
        return
    parts = ("joint_transformer_blocks", "single_transformer_blocks")
    patch, registers = module.config.patch_size, module.register_tokens.shape[1]
    lists: list[Any] = [getattr(module, part) for part in parts]
    inside = tuple(block.attn for blocks in lists for block in blocks)
    owner = Owner(module, InputGrid(patch, NOTED), inside)  # under checkpointing, blocks get no keywords
    sites.owners.append(owner)
    for part, blocks in zip(parts, lists, strict=True):
        for index, block in enumerate(blocks):
            layer, single = f"{part}.{index}.attn", part != parts[0]
            if type(block.attn) in (Attention, DeltaConvAuraFlowAttention):
                sites.found[layer] = AuraFlowSite(
                    layer, block.attn, owner, patch, single=single, last=False, block=block, registers=registers
                )
