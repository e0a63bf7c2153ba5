"""What `DeltaConvFusion.convert` puts where: the blocks' options by layer name, and the blocks themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from deltaconv_kernels import DeltaConvBlock

from .kernel_sizes import check_names
from .kinds.site import Site
from .text_share import TEXT_SHARE, TextShare

Layers = dict[str, dict[str, Any]]

TAKEN = ("blocks", "layers")  # attributes of DeltaConvFusion; the layers of HunyuanDiT and Lumina-Next begin so


def plan_layers(sites: Mapping[str, Site], sizes: Mapping[str, int], **shared: Any) -> Layers:
    """Options of the block of every layer in `sizes`, the config's form; `shared` are those that all have.

    Raises:
        ValueError: an expansion that is no positive number.
    """
    if not shared["expansion"] > 0:
        raise ValueError(f"expansion: expected a positive number, got {shared['expansion']}")
    layers: Layers = {}
    for name, kernel_size in sizes.items():
        layer = {"dim": sites[name].dim, "kernel_size": kernel_size, **shared}
        gate_scale = DeltaConvBlock(**layer, device="meta").gate_scale
        layers[name] = {**layer, "gate_scale": gate_scale, **sites[name].block_options}
    return layers


def build_block(layer: Mapping[str, Any]) -> DeltaConvBlock:
    """A new block from its entry in the config."""
    options = dict(layer)
    gate_scale, heads = options.pop("gate_scale"), options.pop("heads", None)
    block = DeltaConvBlock(**options)
    block.gate_scale = gate_scale
    if heads is not None:  # of a joint attention
        block.add_module(TEXT_SHARE, TextShare(heads))
    return block


def check_layers(sites: Mapping[str, Site], layers: Mapping[str, Mapping[str, Any]], excluded: Iterable[str]) -> None:
    """
    Raises:
        ValueError: the denoiser's self-attentions are not those in `layers` and `excluded`, or have other widths.
    """
    check_names("pipe_or_denoiser", sites, [*layers, *excluded])
    wrong = [
        f"{name} has {sites[name].dim} channels, its block {layer['dim']}"
        for name, layer in layers.items()
        if sites[name].dim != layer["dim"]
    ]
    if wrong:
        raise ValueError(f"pipe_or_denoiser: {'; '.join(wrong)}")


def place_of(layer: str) -> str:
    """The dotted name under which a fusion keeps the block of a layer: the layer's, so that parameters are called as in
    the denoiser, but for a first part that is an attribute of every fusion."""
    first, dot, rest = layer.partition(".")
    return f"{first}_{dot}{rest}" if first in TAKEN else layer


def add_nested(root: nn.Module, path: str, module: nn.Module) -> None:
    """Register `module` under a dotted name."""
    first, _, rest = path.partition(".")
    if not rest:
        root.add_module(first, module)
        return
    if first not in root._modules:
        root.add_module(first, nn.Module())
    add_nested(root.get_submodule(first), rest, module)
