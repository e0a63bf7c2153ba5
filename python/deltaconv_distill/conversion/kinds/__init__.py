"""The kinds of self-attention that a ΔConvBlock can stand in for: one module each, and `KINDS`, all of them.

A kind says what its self-attentions are and where they get their grids (`find`), which hidden state is their feature,
and what their blocks start from (its `Site`).
"""

from __future__ import annotations

from collections.abc import Callable

from diffusers import ModelMixin
from torch import nn

from . import (
    added_kv,
    auraflow,
    chroma,
    cogview4,
    flux,
    flux2,
    hunyuan_dit,
    kandinsky3,
    lumina2,
    lumina_next,
    qwen_image,
    sd3,
    stable_cascade,
    transformer_blocks,
    unet_attentions,
    z_image,
)
from .site import Sites

# Adds to the sites what it knows of a module of the denoiser, by the module's name.
Finder = Callable[[ModelMixin, str, nn.Module, Sites], None]

KINDS: tuple[Finder, ...] = tuple(
    kind.find
    for kind in (
        transformer_blocks,
        unet_attentions,
        sd3,
        flux,
        flux2,
        qwen_image,
        cogview4,
        auraflow,
        chroma,
        hunyuan_dit,
        kandinsky3,
        added_kv,
        stable_cascade,
        lumina_next,
        lumina2,
        z_image,
    )
)
