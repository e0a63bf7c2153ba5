"""Where a block goes: the device and the dtype in which the attention that it replaces is computed."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.hooks.group_offloading import GroupOffloadingType
from torch import nn

from deltaconv_kernels import DeltaConvBlock

from .sites import Site

COMPUTE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
CASTING, GROUP_OFFLOAD = "layerwise_casting", "group_offloading"  # names of diffusers' hooks


def move_beside(site: Site, block: DeltaConvBlock) -> None:
    """Give `block` the device of the attention of `site`, and the dtype in which it computes.

    Raises:
        ValueError: the attention's weights are offloaded, or computed in less than 16 bits.
    """
    linear = site.input_layer
    if linear.weight.is_meta and _is_offloaded(site.attention):
        raise ValueError(
            f"{site.name}: its weights are offloaded; attach before enable_sequential_cpu_offload or a device_map that "
            "offloads, or call pipe.remove_all_hooks() first"
        )
    casting = _diffusers_hook(linear, CASTING)
    dtype = linear.weight.dtype if casting is None else casting.compute_dtype
    if dtype not in COMPUTE_DTYPES:
        raise ValueError(f"{site.name}: expected floating-point weights of 16 to 64 bits, got {dtype}")
    block.to(device=linear.weight.device, dtype=dtype)


def check_group_offload(denoiser: ModelMixin) -> None:
    """
    Raises:
        ValueError: diffusers has listed the parameters that it moves, and those of new blocks would stay behind.
    """
    for name, module in denoiser.named_modules():
        hook = _diffusers_hook(module, GROUP_OFFLOAD)
        if hook is None:
            continue
        config = hook.config
        if config.offload_type == GroupOffloadingType.LEAF_LEVEL or config.stream or config.offload_to_disk_path:
            raise ValueError(
                f"pipe_or_denoiser: the group offloading hook on {name or type(module).__name__} would leave the "
                "blocks out; attach before enable_group_offload, or use block_level without stream and disk"
            )


def _is_offloaded(module: nn.Module) -> bool:
    """Whether accelerate keeps the weights elsewhere; a model that is on the meta device for good has no such hook."""
    return any(hasattr(part, "_hf_hook") for part in module.modules())


def _diffusers_hook(module: nn.Module, name: str) -> Any:
    registry = module.__dict__.get("_diffusers_hook")
    return None if registry is None else registry.get_hook(name)
