"""Looking on while a denoiser runs: its timestep, and every self-attention with its grid, input and output."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    AuraFlowTransformer2DModel,
    ChromaTransformer2DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    ModelMixin,
    QwenImageTransformer2DModel,
    StableCascadeUNet,
    ZImageTransformer2DModel,
)
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..conversion.attachment import attachment_of
from ..conversion.grids import InputGrid
from ..conversion.kinds.joint_attention import JointStandIn, Stream
from ..conversion.routing import StandIn
from ..conversion.sites import Site, sites_to_convert
from .attention import Projected, gathered_from_text, project, projected_of, text_shares
from .geometry import Grid


@dataclass(frozen=True)
class Call:
    """One call of a self-attention: hidden_states and output are [B, H * W, C], without norms and residual connections
    that are part of the attention."""

    layer: str
    attention: Attention
    grid: Grid
    hidden_states: Tensor
    output: Tensor
    kind: type[StandIn] = StandIn
    arguments: Mapping[str, Any] = field(default_factory=dict)  # the keywords that the attention got
    joint: JointCall | None = None

    def project(self, hidden_states: Tensor) -> Projected:
        """Queries, keys and values of the image's tokens, made from such an input."""
        if self.joint is None:
            return project(self.attention, hidden_states, self.kind, self.arguments)
        _, image = self.joint.streams(hidden_states)
        return projected_of(image)

    def with_text(self, gathered: Tensor, queries: Tensor) -> Tensor:
        """What heads gather in all where they gather this from the image, [B, heads, M, D], for M image tokens.

        Of a joint attention that is the text's part by its share, and of `gathered` what the share leaves."""
        if self.joint is None:
            return gathered
        text, image = self.joint.streams(self.hidden_states)
        share = text_shares(text, image, queries, self.joint.text_mask)[..., None]
        return share * gathered_from_text(text, image, queries, self.joint.text_mask) + (1 - share) * gathered

    def project_out(self, gathered: Tensor, dtype: torch.dtype) -> Tensor:
        """[B, heads, M, head width] to the layer's output, [B, M, C] in `dtype`, before the residual add."""
        attention: Any = self.attention
        return self.kind.project_out(attention, gathered.transpose(1, 2).flatten(2).to(dtype))


@dataclass(frozen=True)
class JointCall:
    """What a call of a joint attention has beside the image: its arguments by name, for streams made from another
    image."""

    kind: type[JointStandIn]
    attention: Any
    arguments: dict[str, Any]
    tokens: int  # of the image

    @property
    def text_mask(self) -> Tensor | None:
        """As `JointStandIn.text_mask`."""
        return self.kind.text_mask(self.arguments, self.tokens)

    def streams(self, image: Tensor) -> tuple[Stream, Stream]:
        """Text and image, of these image tokens."""
        return self.kind.streams(self.attention, self.kind.with_image(self.arguments, image), image.shape[1])


# Gets each call; what it returns, if anything, takes the place of the output.
Watch = Callable[[Call], Tensor | None]


@contextmanager
def watched(denoiser: ModelMixin, watch: Watch) -> Iterator[None]:
    """Inside, `watch` is called, without autograd, after every self-attention of the denoiser. No compiled code runs.

    Raises:
        RuntimeError: a fusion is attached to the denoiser.
        ValueError: it has no self-attention.
    """
    if attachment_of(denoiser) is not None:
        raise RuntimeError("pipe_or_denoiser: a fusion is attached; call its detach() and look at the teacher")
    sites = sites_to_convert(denoiser)
    taps = {id(owner): _GridTap(owner.source) for owner in sites.owners}
    handles: list[RemovableHandle] = []
    try:
        for owner in sites.owners:
            handles.append(owner.module.register_forward_pre_hook(taps[id(owner)], with_kwargs=True))
        for site in sites.found.values():
            hook = _AttentionHook(site, taps[id(site.owner)], watch)
            handles.append(site.attention.register_forward_hook(hook, with_kwargs=True))
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def on_forward(denoiser: nn.Module, begin: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Inside, `begin` is called before every forward of the denoiser with its arguments by name."""
    signature = inspect.signature(type(denoiser).forward)

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        begin(dict(signature.bind(module, *args, **kwargs).arguments))

    handle = denoiser.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


FROM_ZERO_TO_ONE = (  # whose timesteps are fractions of 1000
    AuraFlowTransformer2DModel,
    ChromaTransformer2DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    StableCascadeUNet,
)

# in whose timesteps 0 is noise, and 1 the image
FROM_NOISE_TO_IMAGE = (LuminaNextDiT2DModel, Lumina2Transformer2DModel, ZImageTransformer2DModel)


def timestep_of(arguments: dict[str, Any]) -> int:
    """The timestep of a forward of a denoiser, a number or a tensor of equal ones, as the nearest whole number."""
    denoiser = arguments.get("self")
    given = next(arguments[name] for name in ("timestep", "timestep_ratio", "t") if name in arguments)
    timestep = float(torch.as_tensor(given).reshape(-1)[0])
    if isinstance(denoiser, FROM_NOISE_TO_IMAGE):
        timestep = 1 - timestep
    return round(1000 * timestep if isinstance(denoiser, (*FROM_ZERO_TO_ONE, *FROM_NOISE_TO_IMAGE)) else timestep)


class _GridTap:
    """Forward pre-hook of a module that knows height and width."""

    def __init__(self, source: InputGrid) -> None:
        self.source = source
        self.grid: Grid = (0, 0)

    def __call__(self, owner: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.grid = self.source.grid(owner, args, kwargs)


class _AttentionHook:
    """Forward hook of a self-attention."""

    def __init__(self, site: Site, tap: _GridTap, watch: Watch) -> None:
        self.site = site
        self.tap = tap
        self.watch = watch

    def __call__(self, attention: Attention, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        kind = self.site.stand_in
        if kwargs.get("attention_mask") is not None and not kind.takes_masks:
            raise ValueError(f"{self.site.name}: expected a self-attention without attention_mask, got one")
        if issubclass(kind, JointStandIn):
            return self._joint(kind, attention, kind.arguments(args, kwargs), output)
        given = args[0] if args else kwargs["hidden_states"]
        hidden_states = kind.inner_input(attention, given)
        tokens, (height, width) = hidden_states.shape[1], self.tap.grid
        if tokens != height * width:
            raise ValueError(f"{self.site.name}: expected {height} x {width} tokens, got {tokens}: are tokens merged?")
        # sums outlive a pipeline's inference mode, whose tensors could neither be added to later nor have gradients
        with torch.inference_mode(False), torch.no_grad():
            inner_output = kind.inner_output(attention, given, output)
            seen = Call(self.site.name, attention, self.tap.grid, hidden_states, inner_output, kind, kwargs)
            replaced = self.watch(seen)
            return None if replaced is None else kind.outer_output(attention, given, replaced)

    def _joint(self, kind: type[JointStandIn], attention: Any, call: dict[str, Any], output: Any) -> Any:
        tokens = self.tap.grid[0] * self.tap.grid[1]
        with torch.inference_mode(False), torch.no_grad():
            image = kind.image_tokens(attention, call, tokens).clone()
            joint = JointCall(kind, attention, call, tokens)
            given = kind.image_output(attention, call, output, tokens)
            seen = Call(self.site.name, attention, self.tap.grid, image, given, kind, call, joint)
            replaced = self.watch(seen)
            return None if replaced is None else kind.with_image_output(attention, call, output, replaced)
