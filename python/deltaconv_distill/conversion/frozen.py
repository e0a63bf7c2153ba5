"""What blocks stand in for is frozen while they run: no gradient reaches those weights, and DDP waits for one."""

from __future__ import annotations

from diffusers import ModelMixin
from torch import nn

from .routing import BLOCK, StandIn


def freeze_replaced(denoiser: ModelMixin) -> set[str]:
    """Freeze what replaced self-attentions do not use; returns the names of those weights that were not frozen yet."""
    frozen = set()
    for name, module in denoiser.named_modules():
        if isinstance(module, StandIn):
            for key, parameter in module.named_parameters(prefix=name):
                own = key[len(name) + 1 :]
                if parameter.requires_grad and not own.startswith(f"{BLOCK}.") and module.is_idle(own):
                    parameter.requires_grad_(False)
                    frozen.add(key)
    return frozen


def unfreeze(denoiser: nn.Module, names: set[str]) -> None:
    """Undo `freeze_replaced`, where the parameters are still there: adapters may have gone meanwhile."""
    for name, parameter in denoiser.named_parameters():
        if name in names:
            parameter.requires_grad_(True)
