"""A self-attention computed again from its input, in chunks of queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from ..conversion.kinds.joint_attention import Stream
from ..conversion.routing import StandIn

CHUNK_ELEMENTS = 2**22  # of the probabilities held at a time: 16 MiB in float32


@dataclass(frozen=True)
class Projected:
    """What an attention compares and adds up: q, k, v, all [B, heads, N, head width] in float32."""

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float


def project(
    attention: Attention,
    hidden_states: Tensor,
    kind: type[StandIn] = StandIn,
    arguments: Mapping[str, Any] | None = None,
) -> Projected:
    """Queries, keys and values of a self-attention, made as it makes them, then in float32.

    Args:
        hidden_states: [B, N, C], the attention's input.
        kind: of the attention, which knows how.
        arguments: the other ones, by name.
    """
    query, key, value = kind.compared(attention, hidden_states, arguments or {})
    return Projected(query.float(), key.float(), value.float(), query.shape[-1] ** -0.5)


def projected_of(image: Stream) -> Projected:
    """Of a joint attention, the image's part by itself: how it attends to the image where it does not to the text."""
    query, key, value = (part.transpose(1, 2).float() for part in image)
    return Projected(query, key, value, query.shape[-1] ** -0.5)


def text_shares(text: Stream, image: Stream, queries: Tensor, mask: Tensor | None = None) -> Tensor:
    """The share of attention that `queries`, M indices of image tokens, give to the text: [B, heads, M].

    mask: [B, n] as `JointStandIn.text_mask` has it."""
    of_text = _scores(image, text, queries, mask).logsumexp(-1)
    return (of_text - _scores(image, image, queries, None).logsumexp(-1)).sigmoid()


def gathered_from_text(text: Stream, image: Stream, queries: Tensor, mask: Tensor | None = None) -> Tensor:
    """What image tokens, M of them, gather from the text alone: [B, heads, M, head width]."""
    return _scores(image, text, queries, mask).softmax(-1) @ text.value.transpose(1, 2).float()


def _scores(image: Stream, keys: Stream, queries: Tensor, mask: Tensor | None) -> Tensor:
    query = image.query[:, queries].transpose(1, 2).float() * image.query.shape[-1] ** -0.5
    scores = query @ keys.key.transpose(1, 2).mT.float()
    if mask is None:
        return scores
    mask = mask[:, None, None, :]
    return scores + mask.float() if mask.is_floating_point() else scores.masked_fill(~mask, -torch.inf)


def probabilities(projected: Projected, queries: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of `queries` (indices of tokens, [M]) with the attention of each to all keys, [B, heads, m, N] in float32.

    Never more than CHUNK_ELEMENTS probabilities, or one query's, are held at a time.
    """
    batch, heads, tokens, _ = projected.key.shape
    keys = projected.key.transpose(-1, -2) * projected.scale
    for chunk in queries.split(max(1, CHUNK_ELEMENTS // (batch * heads * tokens))):
        yield chunk, (projected.query[:, :, chunk] @ keys).softmax(-1)
