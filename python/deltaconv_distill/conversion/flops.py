"""Floating-point operations of a self-attention, of what can stand in its place, and their ratios.

A multiply-add counts as two. Element-wise work (softmax, gates, pooling, resampling, biases) is left out on all sides,
as `torch.utils.flop_counter.FlopCounterMode` leaves it out; the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deltaconv_kernels.flops import pyramid_flops

PAPER_RATIO = 6929  # arXiv 2504.21292, abstract: "reducing computational cost by 6929x"
PAPER_RATIO_TO_LINFUSION = 5.42  # the same: "surpassing LinFusion by 5.42x in efficiency"


@dataclass(frozen=True)
class Flops:
    """FLOPs of one layer, or of several, for one sample."""

    attention: int  # self-attention with its four projections
    attention_core: int  # of these, queries times keys and weights times values: quadratic in the tokens
    linfusion: int  # LinFusion's linear attention (arXiv 2409.02097) in its default configuration
    linfusion_plain: int  # the same without the non-linear projections of queries and keys
    block: int  # the ΔConvBlock: in_proj, convolutions, out_proj, and pool_proj of the mean
    pyramid: int  # of these, the depthwise convolutions

    def __add__(self, other: Flops) -> Flops:
        return Flops(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    @staticmethod
    def total(parts: Iterable[Flops]) -> Flops:
        """The sum, also of nothing."""
        return sum(parts, Flops(0, 0, 0, 0, 0, 0))

    def ratio(self, numerator: str, denominator: str) -> float:
        """One field over another."""
        return getattr(self, numerator) / getattr(self, denominator)


def layer_flops(
    height: int,
    width: int,
    dim: int,
    inner_dim: int,
    heads: int,
    inter: int,
    kernel_size: int,
    factors: Sequence[int],
    kv_dim: int | None = None,
    has_outputs: bool = True,
) -> Flops:
    """All of the above for a layer of `dim` channels on a grid of height x width tokens.

    `inner_dim` is heads times head width, `kv_dim` the same of keys and of values, where heads of queries share them;
    `inter` the width inside the ΔConvBlock; without `has_outputs` the attention has no output projection of its own.
    """
    tokens = height * width
    projected = inner_dim + 2 * (kv_dim or inner_dim) + has_outputs * inner_dim
    projections = 2 * tokens * dim * projected
    core = 2 * (2 * tokens * tokens * inner_dim)
    # keys times values and queries times that, both [tokens, head width] by head; and the queries' normaliser
    linear_core = 2 * (2 * tokens * inner_dim * (inner_dim // heads)) + 2 * tokens * inner_dim
    # of queries and of keys: two layers of full width
    non_linear = 2 * 2 * (2 * tokens * dim * dim)
    pyramid = pyramid_flops((1, height, width, inter), kernel_size, factors)
    in_proj = 2 * tokens * dim * inter
    out_proj = 2 * tokens * (len(factors) * inter // 2) * dim
    pool_proj = 2 * dim * dim
    return Flops(
        attention=projections + core,
        attention_core=core,
        linfusion=projections + linear_core + non_linear,
        linfusion_plain=projections + linear_core,
        block=in_proj + pyramid + out_proj + pool_proj,
        pyramid=pyramid,
    )


@dataclass(frozen=True)
class TextStream:
    """The text in a joint attention: its tokens, and how they are projected.

    single: by the layers of the image tokens, without an output projection; last: what text tokens gather is not used.
    queries: whether the text has queries, or keys and values alone; width: its channels, where not the image's;
    padded_to: image and text are each filled up to a multiple of this, by tokens that count as text.
    """

    tokens: int
    single: bool
    last: bool
    queries: bool = True
    width: int | None = None
    padded_to: int = 1

    def beside(self, image_tokens: int) -> int:
        """Tokens beside those of the image, padding included."""
        return self.tokens + -self.tokens % self.padded_to + -image_tokens % self.padded_to


def joint_flops(
    plain: Flops, image_tokens: int, text: TextStream, dim: int, inner_dim: int, heads: int, kv_dim: int | None = None
) -> Flops:
    """As `layer_flops`, of a joint attention: `plain` is the count of its image tokens alone.

    `block` is all that is left of the attention with the block in it: projections, text queries on everything, image
    queries on the text, and the block.
    """
    text_tokens = text.beside(image_tokens)
    projection = 2 * dim * inner_dim  # for an image token
    keys_and_values = 2 * (2 * dim * (kv_dim or inner_dim))
    text_width = text.width or dim
    text_queries = text.queries * (2 * text_width * inner_dim)  # for a token of the text
    text_projections = text_queries + 2 * (2 * text_width * (kv_dim or inner_dim))
    both = image_tokens + text_tokens
    asking = both if text.queries else image_tokens
    gathering = image_tokens if text.last else asking
    projections = image_tokens * (projection + keys_and_values) + text_tokens * text_projections
    if not text.single:
        projections += gathering * projection
    core = 2 * (2 * asking * both * inner_dim)
    linear_core = 2 * (asking + both) * inner_dim * (inner_dim // heads) + 2 * asking * inner_dim
    non_linear = 2 * (2 * (asking + both) * dim * dim)
    left = projections + 2 * (2 * image_tokens * text_tokens * inner_dim)
    if gathering > image_tokens:
        left += 2 * (2 * text_tokens * both * inner_dim)
    else:  # without the image's keys and values, and the text's queries
        left -= image_tokens * keys_and_values + text_tokens * text_queries
    return Flops(
        attention=projections + core,
        attention_core=core,
        linfusion=projections + linear_core + non_linear,
        linfusion_plain=projections + linear_core,
        block=left + plain.block,
        pyramid=plain.pyramid,
    )


DEFINITIONS = {
    "self-attention with its projections over the whole ΔConvBlock": ("attention", "block"),
    "attention core over the whole ΔConvBlock": ("attention_core", "block"),
    "self-attention with its projections over the convolutions alone": ("attention", "pyramid"),
    "attention core over the convolutions alone": ("attention_core", "pyramid"),
}


@dataclass(frozen=True)
class Closest:
    """The way of counting, and the image size in pixels, that come closest to a published ratio."""

    definition: str
    size: int
    ratio: float
    published: float

    @property
    def relative_error(self) -> float:
        return abs(self.ratio / self.published - 1)


def closest_definition(flops_by_size: dict[int, Flops], published: float = PAPER_RATIO) -> Closest:
    """The paper does not say what it counts: of `DEFINITIONS` and the given sizes, the nearest to its ratio."""
    candidates = [
        Closest(definition, size, flops.ratio(*fields), published)
        for definition, fields in DEFINITIONS.items()
        for size, flops in flops_by_size.items()
    ]
    return min(candidates, key=lambda candidate: candidate.relative_error)
