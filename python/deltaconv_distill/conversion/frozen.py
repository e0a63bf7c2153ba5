"""Replaced self-attentions are frozen while their blocks run: no gradient reaches them, and DDP waits for one."""

from __future__ import annotations

from diffusers import ModelMixin
from torch import nn

from .routing import BLOCK, StandIn


def freeze_replaced(denoiser: ModelMixin) -> set[str]:
    """Freeze the weights of all replaced self-attentions; returns the names of those that were not frozen yet."""
    frozen = set()
    for name, module in denoiser.named_modules():
        if isinstance(module, StandIn):
            for key, parameter in module.named_parameters(prefix=name):
                if parameter.requires_grad and not key.startswith(f"{name}.{BLOCK}."):
                    parameter.requires_grad_(False)
                    frozen.add(key)
    return frozen


def unfreeze(denoiser: nn.Module, names: set[str]) -> None:
    """Undo `freeze_replaced`, where the parameters are still there: adapters may have gone meanwhile."""
    for name, parameter in denoiser.named_parameters():
        if name in names:
            parameter.requires_grad_(True)
