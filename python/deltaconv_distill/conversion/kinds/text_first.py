"""Joint attentions that put the text before the image: of two streams, or of one sequence that has been joined so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from ..routing import Route
from .joint_attention import JointStandIn, Stream


class TextFirst(JointStandIn):
    """Without `encoder_hidden_states`, text and image are one sequence and projected by the same layers."""

    def student(self, call: Mapping[str, Any], route: Route) -> Any:
        """Image and text, or both in one sequence."""
        tokens = route.height * route.width
        text, image = self.streams(call, tokens)
        of_text = self.project_text(self.text_queries(call, text, image))
        of_image = self.project_out(self.of_image(text, image, self.text_mask(call, tokens)))
        output = of_image + self.delta(self.image_tokens(call, tokens), route)
        if call.get("encoder_hidden_states") is None:
            return torch.cat([of_text, output.to(of_text.dtype)], dim=1)
        return output, of_text

    def text_queries(self, call: Mapping[str, Any], text: Stream, image: Stream) -> Tensor:
        """`of_text`, under what mask the call has."""
        return self.of_text(text, image)

    def streams(self, call: Mapping[str, Any], tokens: int) -> tuple[Stream, Stream]:
        own: Any = self
        hidden_states, text = call["hidden_states"], call.get("encoder_hidden_states")
        query, key, value = _heads(own.heads, hidden_states, own.to_q, own.to_k, own.to_v)
        query, key = own.norm_q(query), own.norm_k(key)
        if text is not None:
            text_query, text_key, text_value = _heads(own.heads, text, own.add_q_proj, own.add_k_proj, own.add_v_proj)
            query = torch.cat([own.norm_added_q(text_query), query], dim=1)
            key = torch.cat([own.norm_added_k(text_key), key], dim=1)
            value = torch.cat([text_value, value], dim=1)
        rotary = call.get("image_rotary_emb")
        if rotary is not None:
            query = apply_rotary_emb(query, rotary, sequence_dim=1)
            key = apply_rotary_emb(key, rotary, sequence_dim=1)
        first = query.shape[1] - tokens
        return (
            Stream(query[:, :first], key[:, :first], value[:, :first]),
            Stream(query[:, first:], key[:, first:], value[:, first:]),
        )


def _heads(heads: int, hidden_states: Any, *projections: Any) -> list[Tensor]:
    return [projection(hidden_states).unflatten(-1, (heads, -1)) for projection in projections]
