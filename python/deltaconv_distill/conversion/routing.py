"""How a call finds its way inside a converted denoiser: to the ΔConvBlock with its grid, or to the attention.

`BasicTransformerBlock` hands its attentions [B, L, C] tokens and `cross_attention_kwargs`, no height and no width.
So the module that knows them puts a `Route` into a copy of those keyword arguments, and `DeltaConvAttention` reads it
there. Nothing is remembered between calls: activation checkpointing runs a block again with the route of its first run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from deltaconv_kernels import DeltaConvBlock

from .forwards import exchange_forward, forget_outputs, why_shadowed

ROUTE = "deltaconv_route"  # the private key in cross_attention_kwargs
BLOCK = "deltaconv"  # the block's name inside a DeltaConvAttention
ATTACHMENT = "_deltaconv_attachment"  # the attribute of a converted denoiser that ties it to its fusion

STUDENT, TEACHER, REMOVED, POOL = "student", "teacher", "removed", "pool"


class Route(NamedTuple):
    """What one call of a self-attention needs to know: its grid, in tokens, and what runs in its place."""

    height: int
    width: int
    mode: str


class DeltaConvAttention(Attention):
    """A self-attention that a ΔConvBlock stands in for.

    An `Attention` becomes one by assigning its `__class__`, as torch's parametrizations and FSDP2 do, and is the same
    object with the same weights, names and processor before and after. What diffusers does to attentions (processors,
    backends, fused projections, IP-Adapters, devices, offload) therefore reaches the teacher as ever.
    """

    deltaconv: DeltaConvBlock

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        deltaconv_route: Route | None = None,
        **cross_attention_kwargs: Any,
    ) -> Tensor:
        """hidden_states: [B, L, C] with L = height * width of the route. Returns [B, L, C]."""
        if type(self) is Attention:  # taken out again, while somebody's wrapper has kept this method
            return Attention.forward(
                self, hidden_states, encoder_hidden_states, attention_mask=attention_mask, **cross_attention_kwargs
            )
        if deltaconv_route is None:
            raise RuntimeError(
                "a converted self-attention was called without its grid: call the model that DeltaConvFusion was "
                "attached to, not its transformer blocks one by one"
            )
        height, width, mode = deltaconv_route
        if mode == TEACHER:
            return super().forward(
                hidden_states, encoder_hidden_states, attention_mask=attention_mask, **cross_attention_kwargs
            )
        if mode == REMOVED:
            return torch.zeros_like(hidden_states)
        if mode == POOL:
            return self.deltaconv.pool_proj(hidden_states.mean(dim=1, keepdim=True)).expand_as(hidden_states)
        if attention_mask is not None:
            raise ValueError("attention_mask: a ΔConvBlock has no keys to mask, expected None")
        batch, tokens, channels = hidden_states.shape
        if tokens != height * width:
            raise ValueError(
                f"hidden_states: expected {height} x {width} = {height * width} tokens, got {tokens}; "
                "token merging and the like cannot be combined with ΔConvBlocks"
            )
        delta = self.deltaconv(hidden_states.reshape(batch, height, width, channels))
        return delta.reshape(batch, tokens, channels)


def insert_block(attention: Attention, block: DeltaConvBlock) -> None:
    """Let `block` stand in for `attention`.

    Raises:
        ValueError: a forward stands on the instance that would run instead of the block; nothing has changed.
    """
    exchange_forward(attention, Attention.forward, DeltaConvAttention.forward)
    if reason := why_shadowed(attention, DeltaConvAttention.forward):
        exchange_forward(attention, DeltaConvAttention.forward, Attention.forward)
        raise ValueError(f"{reason}; a ΔConvBlock in its place would never run")
    attention.__class__ = DeltaConvAttention
    attention.add_module(BLOCK, block)
    forget_outputs(attention)


def remove_block(attention: DeltaConvAttention) -> None:
    """Undo `insert_block`."""
    del attention._modules[BLOCK]
    attention.__class__ = Attention
    exchange_forward(attention, DeltaConvAttention.forward, Attention.forward)
    forget_outputs(attention)


@contextmanager
def hidden_blocks(denoiser: nn.Module) -> Iterator[None]:
    """Inside, `denoiser` has the parameters and the state dict of the teacher alone."""
    attentions = [module for module in denoiser.modules() if isinstance(module, DeltaConvAttention)]
    blocks = [attention._modules.pop(BLOCK) for attention in attentions]
    try:
        yield
    finally:
        for attention, block in zip(attentions, blocks, strict=True):
            attention._modules[BLOCK] = block


def drop_block_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """State-dict hook for a part of a denoiser: asked for its own state (prefix ""), it answers with the teacher's.

    `ControlNetModel.from_unet` and `UNetMotionModel.from_unet2d` load such parts, strictly, into models that have never
    been converted. The state dict of the whole denoiser keeps the blocks: offloading looks up every parameter there
    under its own name.
    """
    if prefix:
        return
    for name, part in module.named_modules():
        if isinstance(part, DeltaConvAttention):
            for key in part._modules[BLOCK].state_dict(prefix=f"{name}.{BLOCK}." if name else f"{BLOCK}."):
                state_dict.pop(key, None)
