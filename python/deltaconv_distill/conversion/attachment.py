"""An attached denoiser: the blocks in their places, the hooks, and what its save_pretrained does meanwhile."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from diffusers import ModelMixin
from torch import nn
from torch.utils.hooks import RemovableHandle

from deltaconv_kernels import DeltaConvBlock

from .adapters import adapter_layers, add_adapter, load_lora_adapter, report_skipped
from .hooks import CallTap, Control, FeatureTap, RouteHook, drop_route
from .routing import DeltaConvAttention, drop_block_keys, hidden_blocks, insert_block, remove_block
from .sites import Site, Sites, patch_size

if TYPE_CHECKING:
    from .fusion import DeltaConvFusion

logger = logging.getLogger(__name__)

ATTACHMENT = "_deltaconv_attachment"  # the denoiser's attribute
SIDE_CAR_FOLDER = "deltaconv_fusion"


@dataclass
class Attachment:
    """Ties a fusion to a denoiser. A deep copy of the denoiser has a copy of it, and so a fusion of its own."""

    fusion: DeltaConvFusion
    denoiser: ModelMixin
    control: Control
    handles: list[RemovableHandle]

    def remove(self) -> None:
        """The denoiser is again what it was before, hooks and all."""
        for handle in self.handles:
            handle.remove()
        for module in self.denoiser.modules():
            if isinstance(module, DeltaConvAttention):
                remove_block(module)
        del self.denoiser.__dict__[ATTACHMENT]
        for method in _overridden_methods(self.denoiser):
            del self.denoiser.__dict__[method]


def attachment_of(denoiser: ModelMixin) -> Attachment | None:
    """The attachment of a converted denoiser, None of any other."""
    return denoiser.__dict__.get(ATTACHMENT)


def install(
    fusion: DeltaConvFusion, denoiser: ModelMixin, sites: Sites, blocks: Mapping[str, DeltaConvBlock]
) -> Attachment:
    """Put `blocks`, by layer name, in the places of the denoiser's self-attentions, its `sites`."""
    for name, block in blocks.items():
        _move_beside(sites.found[name], block)
    for name, block in blocks.items():
        insert_block(sites.found[name].attention, block)
    control = Control()
    attachment = Attachment(fusion, denoiser, control, _install_hooks(denoiser, sites, control))
    denoiser.__dict__[ATTACHMENT] = attachment
    for method, override in _overridden_methods(denoiser).items():
        denoiser.__dict__[method] = MethodType(override, denoiser)
    report_skipped(denoiser, adapter_layers(denoiser))
    return attachment


def _overridden_methods(denoiser: ModelMixin) -> dict[str, Callable[..., Any]]:
    """What replaces methods of an attached denoiser; not all kinds take adapters."""
    overrides: dict[str, Callable[..., Any]] = {
        "save_pretrained": _save_teacher_and_side_car,
        "load_lora_adapter": load_lora_adapter,
        "add_adapter": add_adapter,
    }
    return {method: override for method, override in overrides.items() if hasattr(type(denoiser), method)}


def _install_hooks(denoiser: ModelMixin, sites: Sites, control: Control) -> list[RemovableHandle]:
    handles = [
        denoiser.register_forward_pre_hook(control.begin_forward),
        denoiser.register_forward_hook(control.end_forward, always_call=True),
    ]
    for owner in sites.owners:
        hook = RouteHook(control, owner, patch_size(owner))
        handles.append(owner.register_forward_pre_hook(hook, with_kwargs=True))
        for block in owner.transformer_blocks:
            for attention in (block.attn1, block.attn2):
                if attention is not None and not isinstance(attention, DeltaConvAttention):
                    handles.append(attention.register_forward_pre_hook(drop_route, with_kwargs=True))
    for name, site in sites.found.items():
        if isinstance(site.attention, DeltaConvAttention):
            handles.append(site.feature_module.register_forward_pre_hook(FeatureTap(control, name)))
            handles.append(site.attention.register_forward_hook(CallTap(control, name), with_kwargs=True))
    for child in denoiser.children():
        if any(isinstance(module, DeltaConvAttention) for module in child.modules()):
            handles.append(child.register_state_dict_post_hook(drop_block_keys))
    return handles


def _move_beside(site: Site, block: DeltaConvBlock) -> None:
    """Give `block` the device and dtype of the attention that it replaces."""
    weight = site.attention.to_q.weight
    if weight.is_meta and _is_offloaded(site.attention):
        raise ValueError(
            f"{site.name}: its weights are offloaded; attach before enable_sequential_cpu_offload, or call "
            "pipe.remove_all_hooks() first"
        )
    if weight.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        raise ValueError(f"{site.name}: expected floating-point weights of 16 to 64 bits, got {weight.dtype}")
    block.to(device=weight.device, dtype=weight.dtype)


def _is_offloaded(module: nn.Module) -> bool:
    """Whether accelerate keeps the weights elsewhere; a model that is on the meta device for good has no such hook."""
    return any(hasattr(part, "_hf_hook") for part in module.modules())


@functools.wraps(ModelMixin.save_pretrained)
def _save_teacher_and_side_car(
    denoiser: ModelMixin, save_directory: str | os.PathLike, is_main_process: bool = True, **options: Any
) -> None:
    """While attached: write the teacher as it is without blocks, and the blocks into a folder of their own."""
    with hidden_blocks(denoiser):
        type(denoiser).save_pretrained(denoiser, save_directory, is_main_process=is_main_process, **options)
    if is_main_process:
        side_car = Path(save_directory) / SIDE_CAR_FOLDER
        denoiser.__dict__[ATTACHMENT].fusion.save_pretrained(side_car)
        logger.warning(
            f"{save_directory} holds the {type(denoiser).__name__} with its own self-attention, and {side_car} the "
            f"ΔConvBlocks: load both and call DeltaConvFusion.from_pretrained({str(side_car)!r}).attach(...)"
        )
