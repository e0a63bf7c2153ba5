"""LoRA and its kin on a converted denoiser: what they do to replaced self-attentions has no effect, and is said.

The adapters are loaded into the teacher's attentions all the same: `fusion.teacher()` and `detach()` have them.
"""

from __future__ import annotations

import logging
from typing import Any

from diffusers import ModelMixin
from diffusers.utils import is_peft_available

from .frozen import freeze_replaced
from .routing import ATTACHMENT, BLOCK, StandIn

logger = logging.getLogger(__name__)

AdapterLayers = set[tuple[str, str]]


def adapter_layers(denoiser: ModelMixin) -> AdapterLayers:
    """(layer, adapter) for everything that peft has put into the denoiser."""
    if not is_peft_available() or not getattr(denoiser, "_hf_peft_config_loaded", False):
        return set()
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {
        (name, adapter)
        for name, module in denoiser.named_modules()
        if isinstance(module, BaseTunerLayer)
        for adapter in module._get_available_adapters()
    }


def report_skipped(denoiser: ModelMixin, layers: AdapterLayers) -> None:
    """Warn of those `layers` that adapt self-attentions which ΔConvBlocks stand in for, with a count."""
    replaced = {name: module for name, module in denoiser.named_modules() if isinstance(module, StandIn)}
    skipped, attentions = 0, set()
    for name, _ in layers:
        for attention, module in replaced.items():
            own = name[len(attention) + 1 :]
            if name.startswith(f"{attention}.") and not own.startswith(f"{BLOCK}.") and module.is_idle(own):
                skipped += 1
                attentions.add(attention)
    if skipped:
        logger.warning(
            f"skipped {skipped} of {len(layers)} adapter layers: they adapt {len(attentions)} self-attentions "
            "that ΔConvBlocks stand in for, and act only in teacher() and after detach()"
        )


def load_lora_adapter(denoiser: ModelMixin, *args: Any, **options: Any) -> Any:
    """While attached: as the class does it, with a report."""
    return _with_report("load_lora_adapter", denoiser, args, options)


def add_adapter(denoiser: ModelMixin, *args: Any, **options: Any) -> Any:
    """While attached: as the class does it, with a report; layers that get no gradient are not trainable."""
    return _with_report("add_adapter", denoiser, args, options)


def _with_report(method: str, denoiser: ModelMixin, args: tuple, options: dict[str, Any]) -> Any:
    before = adapter_layers(denoiser)
    result = getattr(type(denoiser), method)(denoiser, *args, **options)
    denoiser.__dict__[ATTACHMENT].frozen |= freeze_replaced(denoiser)
    report_skipped(denoiser, adapter_layers(denoiser) - before)
    return result
