"""Joint attentions of an image, [B, C, H, W], to which a text adds keys and values, but no queries of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..flops import TextStream
from ..routing import Route
from .joint_attention import JointSite, JointStandIn, Stream

IMAGE_TOKENS = "image_tokens"  # among the arguments of `streams`: in place of those made from `hidden_states`


class TextKeys(JointStandIn):
    """Image tokens attend to the text and to each other; the text gets nothing."""

    def student(self, call: Mapping[str, Any], route: Route) -> Tensor:
        """What `forward` returns where the block stands in, [B, C, H, W]."""
        own: Any = self
        tokens = route.height * route.width
        image, text = self.image_tokens(call, tokens), self.text(call, tokens)
        gathered = self.attend(heads_of(own, own.to_q(image)), text.key, text.value, self.text_mask(call, tokens))
        given = self.project_out(self.weighted(gathered)) + self.delta(image, route)
        return self.with_image_output(call, call["hidden_states"], given)

    @abstractmethod
    def text(self, call: Mapping[str, Any], tokens: int) -> Stream:
        """Keys and values of the text, and no query; `tokens` is the number of image tokens."""

    @staticmethod
    def with_image(call: Mapping[str, Any], image: Tensor) -> dict[str, Any]:
        return {**call, IMAGE_TOKENS: image}


class TextKeysSite(JointSite):
    """An attention of this kind."""

    def text_stream(self, tokens: int) -> TextStream:
        return TextStream(tokens, single=False, last=False, queries=False)


def heads_of(attention: Any, projected: Tensor) -> Tensor:
    """[B, tokens, heads, head width] of [B, tokens, heads * head width]."""
    return projected.unflatten(-1, (attention.heads, -1))


def stream_of(attention: Any, image: Tensor) -> Stream:
    """Queries, keys and values of the image's tokens, [B, N, C]."""
    projections = (attention.to_q, attention.to_k, attention.to_v)
    query, key, value = (heads_of(attention, projection(image)) for projection in projections)
    return Stream(query, key, value)


def keys_of(key: Tensor, value: Tensor) -> Stream:
    """A text's, without a query."""
    return Stream(key[:, :0], key, value)


def tokens_of(image: Tensor) -> Tensor:
    """[B, N, C] of [B, C, H, W]."""
    return image.flatten(2).mT
