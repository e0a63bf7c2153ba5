"""Some of the blocks of a fusion as a fusion of their own."""

from __future__ import annotations

from collections.abc import Collection

from .fusion import DeltaConvFusion


def part_of(fusion: DeltaConvFusion, layers: Collection[str]) -> DeltaConvFusion:
    """A detached fusion with copies of the blocks of `layers`; all other layers are excluded.

    Raises:
        ValueError: a layer without a block, or none at all.
    """
    config = fusion.config
    unknown = [layer for layer in layers if layer not in config.layers]
    if unknown or not layers:
        raise ValueError(f"layers: expected some of {list(config.layers)}, got {list(layers)}")
    kept = {name: layer for name, layer in config.layers.items() if name in layers}
    part = type(fusion)(
        denoiser=config.denoiser,
        layers=kept,
        excluded=[*config.excluded, *(name for name in config.layers if name not in kept)],
        kernel_sizes_from=config.kernel_sizes_from,
        teacher=config.get("teacher"),
    )
    for name, block in part.blocks.items():
        block.load_state_dict(fusion.blocks[name].state_dict())
    return part
