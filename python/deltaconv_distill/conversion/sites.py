"""Where a denoiser attends to itself: the layers that can be replaced, and which module knows their grid."""

from __future__ import annotations

from typing import Any, TypeAlias

from diffusers import DiffusionPipeline, ModelMixin, ModularPipeline, TransformerTemporalModel
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_i2vgen_xl import I2VGenXLTransformerTemporalEncoder
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from diffusers.utils.torch_utils import is_compiled_module

from .families import FAMILIES, WHERE, why_refused
from .kinds import KINDS
from .kinds.site import Site, Sites

__all__ = [
    "DENOISERS",
    "PipelineOrDenoiser",
    "Site",
    "Sites",
    "denoiser_as_called",
    "denoiser_of",
    "find_sites",
    "sites_to_convert",
]

PipelineOrDenoiser: TypeAlias = DiffusionPipeline | ModularPipeline | ModelMixin

DENOISERS = tuple(FAMILIES)
PARTS = ("unet", "transformer", "prior", "decoder")  # of pipelines; the last two of Stable Cascade's
# parts whose tokens are frames
ALONG_TIME = (TransformerTemporalModel, AnimateDiffTransformer3D, I2VGenXLTransformerTemporalEncoder)
BLOCKS_ALONG_TIME = ".temporal_transformer_blocks."  # the same in a part that has spatial ones beside them


def denoiser_of(pipe_or_denoiser: PipelineOrDenoiser) -> ModelMixin:
    """The model that predicts the noise: of a pipeline one of PARTS, or the model itself; not its compiled form.

    Raises:
        TypeError: it is none of the supported models. A pipeline's ControlNet has to be given by itself.
    """
    model: Any = denoiser_as_called(pipe_or_denoiser)
    if is_compiled_module(model):
        model = model._orig_mod
    if reason := why_refused(type(model).__name__):
        raise TypeError(f"pipe_or_denoiser: a {type(model).__name__} cannot be converted, {reason}; see {WHERE}")
    if not isinstance(model, DENOISERS):
        supported = ", ".join(kind.__name__ for kind in DENOISERS)
        raise TypeError(
            f"pipe_or_denoiser: expected one of {supported}, or a pipeline with one as its {' or '.join(PARTS)}, "
            f"got {type(pipe_or_denoiser).__name__} with {type(model).__name__}; see {WHERE}"
        )
    return model


def denoiser_as_called(pipe_or_denoiser: PipelineOrDenoiser) -> Any:
    """The first of PARTS that a pipeline has, in its compiled form where it has that one."""
    if not isinstance(pipe_or_denoiser, DiffusionPipeline | ModularPipeline):
        return pipe_or_denoiser
    parts = (getattr(pipe_or_denoiser, part, None) for part in PARTS)
    return next((part for part in parts if part is not None), None)  # a compiled one has no truth value


def find_sites(denoiser: ModelMixin) -> Sites:
    """All self-attentions of an image denoiser that live on a grid, of every kind."""
    sites = Sites()
    # UNets register their mid block last; here the layers come in the order in which they run
    for name, module in sorted(denoiser.named_modules(), key=lambda item: item[0].startswith("up_blocks.")):
        for find in KINDS:
            find(denoiser, name, module, sites)
    sites.skipped |= _elsewhere(denoiser, sites)
    return sites


def _elsewhere(denoiser: ModelMixin, sites: Sites) -> dict[str, str]:
    """Self-attentions that are of none of the kinds, and why they cannot be replaced."""
    known = {id(attention) for owner in sites.owners for attention in owner.attentions}
    along_time = tuple(f"{name}." for name, module in denoiser.named_modules() if isinstance(module, ALONG_TIME))
    reasons = {}
    for name, module in denoiser.named_modules():
        if not isinstance(module, Attention) or id(module) in known or name in sites.skipped:
            continue
        if name.startswith(along_time) or BLOCKS_ALONG_TIME in f".{name}":
            reasons[name] = "it attends along time"
        elif module.added_kv_proj_dim is not None and not module.only_cross_attention:
            reasons[name] = "it attends to the text and the image together"
        elif not module.is_cross_attention and not module.only_cross_attention:
            reasons[name] = "it is not part of a BasicTransformerBlock"
    return reasons


def sites_to_convert(denoiser: ModelMixin) -> Sites:
    """As `find_sites`.

    Raises:
        ValueError: there is none.
    """
    sites = find_sites(denoiser)
    if not sites.found:
        raise ValueError(f"pipe_or_denoiser: no self-attention to replace; skipped {sites.skipped}")
    return sites
