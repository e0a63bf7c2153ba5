"""What joint attentions have in common: text and image in one attention, of which the image-to-image part is replaced.

With n text tokens and N image tokens a joint attention has four parts. Text queries attend to everything, n (n + N)
scores; image queries attend to the text, N n scores; both are linear in N and stay, with the attention's own frozen
projections. Image queries attend to the image, N² scores: there the block stands in.

An image query i gives the text the share s_i of its attention, so the attention's output is

    W_o (s_i A_text(i) + (1 - s_i) A_image(i)) + b

with A_text the attention over the text alone and A_image that over the image alone. Its stand-in gives

    W_o (share A_text(i)) + b + block(x)_i

with `share` a learned number for each head. The block starts from (1 - share) W_o A_image: exact where image attention
is uniform and each head's share is the same for all queries.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..flops import TextStream
from ..routing import TEACHER, Route, StandIn, TextPart, require_route
from ..text_share import PRIOR, TEXT_SHARE, TextShare
from .linear_maps import LinearMaps, linear_maps
from .site import Site


class Stream(NamedTuple):
    """Queries, keys and values of the text or of the image tokens, [B, tokens, heads, head width] each."""

    query: Tensor
    key: Tensor
    value: Tensor


class JointStandIn(StandIn):
    """A joint attention in which a block stands in for the part from image to image.

    The analysis calls `streams`, `image_tokens`, `project_out`, `image_output` and `with_image_output` for attentions
    as they were, too, where there is no `super()`.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the attention does."""
        if not isinstance(self, StandIn):  # taken out again, while somebody's wrapper has kept this method
            return type(self).forward(self, *args, **kwargs)
        call = self.arguments(args, kwargs)
        route = self.student_route(call)
        if route is None:
            call.pop("deltaconv_route")
            return super().forward(**call)
        return self.student(call, route)

    def student(self, call: Mapping[str, Any], route: Route) -> Any:
        """What `forward` returns where the block stands in: image, [B, N, C], and text, [B, n, C]."""
        tokens = call["hidden_states"]
        mask = self.text_mask(call, tokens.shape[1])
        text, image = self.streams(call, tokens.shape[1])
        output = self.project_out(self.of_image(text, image, mask)) + self.delta(tokens, route)
        return output, self.project_text(self.of_text(text, image, mask))

    @abstractmethod
    def streams(self, call: Mapping[str, Any], tokens: int) -> tuple[Stream, Stream]:
        """Text and image, normalised and turned as the attention does it; `call` has its arguments by name, and
        `tokens` is the number of image tokens."""

    def image_tokens(self, call: Mapping[str, Any], tokens: int) -> Tensor:
        """[B, tokens, C], what the image's values are projected from; in one sequence with the text it comes last."""
        hidden_states = call["hidden_states"]
        return hidden_states[:, hidden_states.shape[1] - tokens :]

    def project_out(self, image: Tensor) -> Tensor:
        """[B, tokens, C] of what image tokens gathered, [B, tokens, heads * head width]."""
        own: Any = self
        return own.to_out[1](own.to_out[0](image))

    def project_text(self, text: Tensor) -> Tensor:
        """[B, n, C] of what text tokens gathered, [B, n, heads * head width]."""
        own: Any = self
        return own.to_add_out(text)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Softmax attention, each [B, tokens, heads, head width]; mask: [B, tokens] of the keys that count, one for
        each query, [B, 1, queries, keys], or None."""
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        mask = mask[:, None, None, :] if mask is not None and mask.dim() == 2 else mask
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)

    @staticmethod
    def text_mask(call: Mapping[str, Any], tokens: int) -> Tensor | None:
        """[B, n], which text tokens count for the image's, or, of a floating-point type, what their scores get added
        beyond those of image tokens; None: all count alike."""
        return None

    def of_text(self, text: Stream, image: Stream, mask: Tensor | None = None) -> Tensor:
        """What text tokens gather from everything, [B, n, heads * head width]: as in the attention itself.

        mask: `text_mask`, or the attention's own rows for these queries, [B, 1, n, n + N]."""
        if mask is not None and mask.dim() == 2:
            mask = torch.cat([mask, mask.new_ones(image.key.shape[:2])], dim=1)
        key, value = torch.cat([text.key, image.key], dim=1), torch.cat([text.value, image.value], dim=1)
        return self.attend(text.query, key, value, mask).flatten(2)

    def of_image(self, text: Stream, image: Stream, mask: Tensor | None = None) -> Tensor:
        """What image tokens gather from the text, weighted by each head's share, [B, N, heads * head width]."""
        return self.weighted(self.attend(image.query, text.key, text.value, mask))

    def weighted(self, gathered: Tensor) -> Tensor:
        """[B, N, heads, head width] of the text, each head's by its share: [B, N, heads * head width]."""
        share = cast(TextShare, self.deltaconv.get_submodule(TEXT_SHARE))
        return share(gathered).flatten(2)

    def recorded(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, route: Route
    ) -> tuple[Tensor, Tensor, TextPart]:
        """The block's input, what the block would have to give for this output of the attention, and the text part."""
        call, tokens = self.arguments(args, kwargs), route.height * route.width
        text, image = self.streams(call, tokens)
        gathered = self.attend(image.query, text.key, text.value, self.text_mask(call, tokens))
        given = self.text_part(gathered)
        return (
            self.image_tokens(call, tokens),
            self.image_output(call, output, tokens) - given,
            TextPart(gathered, given),
        )

    def text_part(self, gathered: Tensor) -> Tensor:
        """[B, N, C], what image tokens get of the [B, N, heads, head width] that they gathered from the text."""
        return self.project_out(self.weighted(gathered))

    @staticmethod
    def with_image(call: Mapping[str, Any], image: Tensor) -> dict[str, Any]:
        """The arguments with other image tokens, [B, N, C]."""
        hidden_states = call["hidden_states"]
        text = hidden_states[:, : hidden_states.shape[1] - image.shape[1]]
        return {**call, "hidden_states": torch.cat([text, image], dim=1)}

    def image_output(self, call: Mapping[str, Any], output: Any, tokens: int) -> Tensor:
        """The image tokens in what the attention returns for these arguments, without a residual connection of its
        own."""
        return output[0] if isinstance(output, tuple) else output[:, output.shape[1] - tokens :]

    def with_image_output(self, call: Mapping[str, Any], output: Any, image: Tensor) -> Any:
        """The attention's output with another one for the image tokens, [B, N, C]."""
        if isinstance(output, tuple):
            return image.to(output[0].dtype), *output[1:]
        return torch.cat([output[:, : output.shape[1] - image.shape[1]], image.to(output.dtype)], dim=1)

    @staticmethod
    def arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """By name; the attention's callers name all but the first."""
        return {"hidden_states": args[0], **kwargs} if args else dict(kwargs)

    def is_idle(self, parameter: str) -> bool:
        return False

    def student_route(self, call: Mapping[str, Any]) -> Route | None:
        """The route where the block stands in, None for the teacher.

        Raises:
            RuntimeError: the call has no route.
            ValueError: it has a mask.
        """
        route = require_route(call.get("deltaconv_route"))
        if route.mode == TEACHER:
            return None
        if not self.takes_masks and call.get("attention_mask") is not None:
            raise ValueError("attention_mask: a ΔConvBlock has no keys to mask, expected None")
        return route


@dataclass(frozen=True, eq=False)
class JointSite(Site):
    """A joint attention. `single`: text and image are one sequence, projected by the same layers, without an output
    projection; `last`: its text output is not used."""

    single: bool
    last: bool

    prior: ClassVar[float] = PRIOR  # the text's share of each head, where nothing was measured

    @property
    def block_options(self) -> dict[str, Any]:
        return {"heads": self.heads}

    def linear_maps(self) -> LinearMaps:
        return linear_maps(self.attention, self.name)

    def text_stream(self, tokens: int) -> TextStream:
        return TextStream(tokens, self.single, self.last)

    def start(self, block: Any, measured: object | None) -> LinearMaps:
        share = getattr(measured, "text_share", None)
        share = torch.full((self.heads,), self.prior) if share is None else share.to("cpu", torch.float32)
        if share.shape != (self.heads,):
            raise ValueError(
                f"profile: expected the text's share of {self.heads} heads for {self.name}, got {len(share)}"
            )
        with torch.no_grad():
            block.get_submodule(TEXT_SHARE).weight.copy_(share)
        maps = self.linear_maps()
        outputs = (maps.outputs.unflatten(1, (self.heads, -1)) * (1 - share)[:, None]).flatten(1)
        return maps._replace(outputs=outputs, bias=outputs @ maps.value_bias)
