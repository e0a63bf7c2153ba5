"""Kinds of Chroma: FLUX.1's joint attentions, with a mask over text and image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import ChromaTransformer2DModel, ModelMixin
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..grids import NOTED, IdsGrid
from ..hooks import Control, SequenceOutputTap
from .flux import PACKED, DeltaConvFluxAttention, FluxSite, add_blocks
from .joint_attention import Stream
from .site import Sites

IMG_IDS = 3  # place among ChromaTransformer2DModel's positional arguments


class DeltaConvChromaAttention(DeltaConvFluxAttention):
    """The attention of a ChromaTransformerBlock or a ChromaSingleTransformerBlock.

    Their `attention_mask`, [B, 1, n + N, n + N], is 1 where both tokens count. Of a floating-point type, as the
    pipeline has it, it is added to the scores: a word then counts e times as much as padding, and this is kept.
    """

    takes_masks = True

    @staticmethod
    def text_mask(call: Mapping[str, Any], tokens: int) -> Tensor | None:
        mask = call.get("attention_mask")
        if mask is None:
            return None
        row = mask[:, 0, -1]  # of the last query, an image token: they all count
        text = row[:, : row.shape[1] - tokens]
        return text - row[:, -1:] if text.is_floating_point() else text.bool()

    def text_queries(self, call: Mapping[str, Any], text: Stream, image: Stream) -> Tensor:
        mask = call.get("attention_mask")
        return self.of_text(text, image, None if mask is None else mask[:, :, : text.query.shape[1]])


@dataclass(frozen=True, eq=False)
class ChromaSite(FluxSite):
    """`block.attn`; a single block gives text and image in one sequence."""

    stand_in = DeltaConvChromaAttention

    def tap_features(self, control: Control) -> RemovableHandle:
        if self.single:
            return self.block.register_forward_hook(SequenceOutputTap(control, self.name))
        return super().tap_features(control)


def find(denoiser: ModelMixin, name: str, module: nn.Module, sites: Sites) -> None:
    """Add the attentions of a ChromaTransformer2DModel."""
    if isinstance(module, ChromaTransformer2DModel):
        grid = IdsGrid(PACKED, NOTED, IMG_IDS)  # under checkpointing, blocks get no keywords
        add_blocks(module, grid, ChromaSite, sites)
