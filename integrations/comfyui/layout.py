"""Where a layer of diffusers' UNet stands in ComfyUI's, which names its parts as Stable Diffusion's first code did."""

from __future__ import annotations

import re

LAYER = re.compile(
    r"(?P<side>down|mid|up)_block(?:s\.(?P<level>\d+))?\.attentions\.(?P<index>\d+)\.(?P<rest>transformer_blocks\..+)"
)


def comfyui_name(layer: str, layers_per_block: int) -> str:
    """ "down_blocks.1.attentions.0.transformer_blocks.0.attn1" is "input_blocks.4.1.transformer_blocks.0.attn1".

    Every level of the first code is a run of its resnets, on the way down followed by a downsampler, which has a
    number of its own; on the way up a level has one resnet more instead. input_blocks.0 is the first convolution.

    Raises:
        ValueError: the name is none of a UNet's with text.
    """
    found = LAYER.fullmatch(layer)
    if found is None:
        raise ValueError(f"layer: expected a self-attention of a UNet2DConditionModel, got {layer!r}")
    side, index, rest = found["side"], int(found["index"]), found["rest"]
    if side == "mid":
        return f"middle_block.{2 * index + 1}.{rest}"
    place = int(found["level"]) * (layers_per_block + 1) + index
    return f"input_blocks.{place + 1}.1.{rest}" if side == "down" else f"output_blocks.{place}.1.{rest}"
