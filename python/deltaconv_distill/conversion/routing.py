"""How a call finds its way inside a converted denoiser: to the ΔConvBlock with its grid, or to the attention.

`BasicTransformerBlock` hands its attentions [B, L, C] tokens and `cross_attention_kwargs`, no height and no width.
So the module that knows them puts a `Route` into a copy of those keyword arguments, and `DeltaConvAttention` reads it
there. Nothing is remembered between calls: activation checkpointing runs a block again with the route of its first run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

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


class TextPart(NamedTuple):
    """What image tokens got from the text in a joint attention.

    gathered: [B, N, heads, head width], before the shares; given: [B, N, C], after them and the output projection.
    """

    gathered: Tensor
    given: Tensor


class StandIn(nn.Module):
    """A self-attention that a ΔConvBlock stands in for.

    An attention of the class `stands_for` becomes one by assigning its `__class__`, as torch's parametrizations and
    FSDP2 do, and is the same object with the same weights, names and processor before and after. What diffusers does to
    attentions (processors, backends, fused projections, IP-Adapters, devices, offload) therefore reaches the teacher as
    ever.
    """

    stands_for: ClassVar[type[nn.Module]]
    takes_masks: ClassVar[bool] = False  # whether the student heeds an `attention_mask`, or knows that it hides nothing
    deltaconv: DeltaConvBlock
    processor: Any

    def delta(self, tokens: Tensor, route: Route) -> Tensor:
        """What runs in the attention's place but for the teacher: [B, L, C] to [B, L, C], L = height * width."""
        height, width, mode = route
        if mode == REMOVED:
            return torch.zeros_like(tokens)
        if mode == POOL:
            return self.deltaconv.pool_proj(tokens.mean(dim=1, keepdim=True)).expand_as(tokens)
        batch, count, channels = tokens.shape
        if count != height * width:
            raise ValueError(
                f"hidden_states: expected {height} x {width} = {height * width} tokens, got {count}; "
                "token merging and the like cannot be combined with ΔConvBlocks"
            )
        delta = self.deltaconv(tokens.reshape(batch, height, width, channels))
        return delta.reshape(batch, count, channels)

    def recorded(
        self, args: tuple[Any, ...], kwargs: Any, output: Any, route: Route
    ) -> tuple[Tensor, Tensor, TextPart | None]:
        """What the block takes in this call, and what it would have to give for this output, [B, L, C] each; of a joint
        attention with the text part that was taken off for that."""
        given = args[0] if args else kwargs["hidden_states"]
        return self.inner_input(self, given), self.inner_output(self, given, output), None

    def is_idle(self, parameter: str) -> bool:
        """Whether the student does without this parameter of the attention, named within it."""
        return True

    @staticmethod
    def inner_input(attention: Any, hidden_states: Tensor) -> Tensor:
        """What an attention of this kind projects, [B, L, C], from its argument."""
        return hidden_states

    @staticmethod
    def inner_output(attention: Any, hidden_states: Tensor, output: Tensor) -> Tensor:
        """What its last projection gave, [B, L, C], from its argument and its output."""
        return output

    @staticmethod
    def turned(query: Tensor, key: Tensor, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Queries and keys, [B, heads, L, head width], as the attention turns them by their positions.

        arguments: its keywords."""
        return query, key

    @classmethod
    def compared(cls, attention: Any, tokens: Tensor, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, [B, heads, L, head width], of an attention of this kind, as AttnProcessor2_0 makes
        them of its input, [B, L, C]. arguments: its keywords."""
        query, key, value = (
            projection(tokens).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for projection in (attention.to_q, attention.to_k, attention.to_v)
        )
        query = query if attention.norm_q is None else attention.norm_q(query)
        key = key if attention.norm_k is None else attention.norm_k(key)
        return *cls.turned(query, key, arguments), value

    def project_out(self, gathered: Tensor) -> Tensor:
        """[B, L, C] of what heads gathered, [B, L, heads * head width]. The analysis calls it for the attention as it
        was, too."""
        own: Any = self
        scale = 1.0 if own.residual_connection else own.rescale_output_factor  # of the sum of both
        return own.to_out[1](own.to_out[0](gathered)) / scale

    @staticmethod
    def outer_output(attention: Any, hidden_states: Tensor, inner_output: Tensor) -> Tensor:
        """The inverse of `inner_output`: what the attention returns if its last projection gives `inner_output`."""
        return inner_output


def require_route(route: Route | None) -> Route:
    """The route of a call.

    Raises:
        RuntimeError: there is none.
    """
    if route is None:
        raise RuntimeError(
            "a converted self-attention was called without its grid: call the model that DeltaConvFusion was "
            "attached to, not its transformer blocks one by one, and checkpoint by its enable_gradient_checkpointing()"
        )
    return Route(*route)


class DeltaConvAttention(StandIn, Attention):
    """An `Attention` of tokens, [B, L, C], whose residual connection is the business of the block around it."""

    stands_for = Attention

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        deltaconv_route: Route | None = None,
        **cross_attention_kwargs: Any,
    ) -> Tensor:
        """hidden_states: [B, L, C] with L = height * width of the route. Returns [B, L, C]."""
        if not isinstance(self, StandIn):  # taken out again, while somebody's wrapper has kept this method
            return Attention.forward(
                self, hidden_states, encoder_hidden_states, attention_mask=attention_mask, **cross_attention_kwargs
            )
        route = require_route(deltaconv_route)
        if route.mode == TEACHER:  # by super(): torch.compile does not follow a call of Attention.forward by its name
            return super().forward(
                hidden_states, encoder_hidden_states, attention_mask=attention_mask, **cross_attention_kwargs
            )
        if route.mode == STUDENT and attention_mask is not None and not self.takes_masks:
            raise ValueError("attention_mask: a ΔConvBlock has no keys to mask, expected None")
        return self.outer_output(self, hidden_states, self.delta(hidden_states, route))


def insert_block(attention: nn.Module, block: DeltaConvBlock, stand_in: type[StandIn]) -> None:
    """Let `block` stand in for `attention`, which becomes a `stand_in`.

    Raises:
        ValueError: a forward stands on the instance that would run instead of the block; nothing has changed.
    """
    exchange_forward(attention, stand_in.stands_for.forward, stand_in.forward)
    if reason := why_shadowed(attention, stand_in.forward):
        exchange_forward(attention, stand_in.forward, stand_in.stands_for.forward)
        raise ValueError(f"{reason}; a ΔConvBlock in its place would never run")
    attention.__class__ = stand_in
    attention.add_module(BLOCK, block)
    forget_outputs(attention)


def remove_block(attention: StandIn) -> None:
    """Undo `insert_block`."""
    stand_in = type(attention)
    del attention._modules[BLOCK]
    attention.__class__ = stand_in.stands_for  # type: ignore[assignment]
    exchange_forward(attention, stand_in.forward, stand_in.stands_for.forward)
    forget_outputs(attention)


@contextmanager
def hidden_blocks(denoiser: nn.Module) -> Iterator[None]:
    """Inside, `denoiser` has the parameters and the state dict of the teacher alone."""
    attentions = [module for module in denoiser.modules() if isinstance(module, StandIn)]
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
        if isinstance(part, StandIn):
            for key in part.deltaconv.state_dict(prefix=f"{name}.{BLOCK}." if name else f"{BLOCK}."):
                state_dict.pop(key, None)
