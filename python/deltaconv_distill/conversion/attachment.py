"""An attached denoiser: the blocks in their places, the hooks, and what its save_pretrained does meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from diffusers import ModelMixin
from torch import nn
from torch.utils.hooks import RemovableHandle

from deltaconv_kernels import DeltaConvBlock

from .adapters import adapter_layers, add_adapter, load_lora_adapter, report_skipped
from .compiled import compile_sized, forget_size, ids_of
from .frozen import freeze_replaced, unfreeze
from .grids import NOTED, IdsGrid
from .hooks import CallTap, Control, RouteHook, drop_route
from .kinds.site import Sites
from .notes import EraseNote, ReadNote, forget_notes
from .placement import check_group_offload, move_beside
from .processors import GuidanceCheck, report_unused, set_attn_processor
from .routing import ATTACHMENT, STUDENT, StandIn, drop_block_keys, insert_block, remove_block
from .saving import save_teacher_and_side_car

if TYPE_CHECKING:
    from .fusion import DeltaConvFusion


@dataclass
class Attachment:
    """Ties a fusion to a denoiser. A deep copy of the denoiser has a copy of it, and so a fusion of its own."""

    fusion: DeltaConvFusion
    denoiser: ModelMixin
    control: Control
    handles: list[RemovableHandle]
    frozen: set[str]  # parameters of replaced attentions that were trainable
    ids: IdsGrid | None = None  # where the denoiser's grid is among the values of its inputs

    def remove(self) -> None:
        """The denoiser is again what it was before, hooks and all."""
        for handle in self.handles:
            handle.remove()
        for module in self.denoiser.modules():
            if isinstance(module, StandIn):
                remove_block(module)
            forget_notes(module)
        forget_size(self.denoiser)
        unfreeze(self.denoiser, self.frozen)
        del self.denoiser.__dict__[ATTACHMENT]
        for method in _overrides(self):
            del self.denoiser.__dict__[method]


def attachment_of(denoiser: ModelMixin) -> Attachment | None:
    """The attachment of a converted denoiser, None of any other."""
    return denoiser.__dict__.get(ATTACHMENT)


def smallest_latents(denoiser: ModelMixin) -> int:
    """The least height and width in latent pixels with which the blocks that run now can do; 1 where none does."""
    attachment = attachment_of(denoiser)
    if attachment is None or attachment.control.now.mode != STUDENT:
        return 1
    layers = attachment.fusion.report.layers
    return max((max(layer.factors) - 1) * layer.stride + 1 for layer in layers)


def install(
    fusion: DeltaConvFusion, denoiser: ModelMixin, sites: Sites, blocks: Mapping[str, DeltaConvBlock]
) -> Attachment:
    """Put `blocks`, by layer name, in the places of the denoiser's self-attentions, its `sites`.

    Raises:
        ValueError: a block would not run there, or not where the denoiser's weights are; nothing has changed.
    """
    check_group_offload(denoiser)
    for name, block in blocks.items():
        move_beside(sites.found[name], block)
    _insert_all(sites, blocks)
    control = Control()
    attachment = Attachment(
        fusion,
        denoiser,
        control,
        _install_hooks(denoiser, sites, control),
        freeze_replaced(denoiser),
        ids_of(denoiser, sites),
    )
    denoiser.__dict__[ATTACHMENT] = attachment
    denoiser.__dict__.update(_overrides(attachment))
    report_skipped(denoiser, adapter_layers(denoiser))
    report_unused(denoiser)
    return attachment


def _insert_all(sites: Sites, blocks: Mapping[str, DeltaConvBlock]) -> None:
    inserted: list[StandIn] = []
    for name, block in blocks.items():
        try:
            insert_block(sites.found[name].attention, block, sites.found[name].stand_in)
        except ValueError as error:
            for attention in inserted:
                remove_block(attention)
            raise ValueError(f"pipe_or_denoiser: {name}: {error}") from error
        inserted.append(sites.found[name].attention)


def _overrides(attachment: Attachment) -> dict[str, Callable[..., Any]]:
    """What stands before methods of an attached denoiser; not all kinds take adapters.

    Partial functions, since torch.save writes a bound method as the name of a method of the class.
    """
    denoiser = attachment.denoiser
    overrides: dict[str, Callable[..., Any]] = {
        "save_pretrained": partial(save_teacher_and_side_car, attachment.fusion, denoiser),
        "load_lora_adapter": partial(load_lora_adapter, denoiser),
        "add_adapter": partial(add_adapter, denoiser),
        "set_attn_processor": partial(set_attn_processor, denoiser),
        "requires_grad_": partial(requires_grad_, denoiser),
    }
    if attachment.ids is not None:
        overrides["compile"] = partial(compile_sized, denoiser, attachment.control, attachment.ids)
    return {method: override for method, override in overrides.items() if hasattr(type(denoiser), method)}


def requires_grad_(denoiser: ModelMixin, requires_grad: bool = True) -> ModelMixin:
    """While attached: as the class does it, but replaced self-attentions stay frozen."""
    type(denoiser).requires_grad_(denoiser, requires_grad)
    attachment = denoiser.__dict__[ATTACHMENT]
    attachment.frozen = freeze_replaced(denoiser)
    return denoiser


def _install_hooks(denoiser: ModelMixin, sites: Sites, control: Control) -> list[RemovableHandle]:
    attentions = [site.attention for site in sites.found.values()]
    handles = [
        denoiser.register_forward_pre_hook(GuidanceCheck(control, attentions)),
        denoiser.register_forward_pre_hook(control.begin_forward),
        denoiser.register_forward_hook(control.end_forward, always_call=True),
    ]
    for owner in sites.owners:
        hook = RouteHook(control, owner.module, owner.source, _largest_factor(owner.module))
        handles.append(owner.module.register_forward_pre_hook(hook, with_kwargs=True))
        noted = owner.source.carrier == NOTED
        if noted:
            handles.append(owner.module.register_forward_hook(EraseNote(control), always_call=True))
        for attention in owner.attentions:
            replaced = isinstance(attention, StandIn)
            if noted and replaced:
                handles.append(attention.register_forward_pre_hook(ReadNote(control), with_kwargs=True))
            elif not noted and not replaced:
                handles.append(attention.register_forward_pre_hook(drop_route, with_kwargs=True))
    for name, site in sites.found.items():
        if isinstance(site.attention, StandIn):
            handles.append(site.tap_features(control))
            handles.append(site.attention.register_forward_hook(CallTap(control, name), with_kwargs=True))
    for part in denoiser.modules():
        if part is not denoiser and any(isinstance(module, StandIn) for module in part.modules()):
            handles.append(part.register_state_dict_post_hook(drop_block_keys))
    return handles


def _largest_factor(owner: nn.Module) -> int:
    blocks = (module for module in owner.modules() if isinstance(module, DeltaConvBlock))
    return max((factor for block in blocks for factor in block.factors), default=1)
