"""The denoisers that can be converted, and those that cannot, each with the reason of its kind.

`convert`'s errors and the tables of docs/models.md are made from these two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from diffusers import (
    AuraFlowTransformer2DModel,
    ChromaTransformer2DModel,
    CogView4Transformer2DModel,
    ControlNetModel,
    DiTTransformer2DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    I2VGenXLUNet,
    Kandinsky3UNet,
    LatteTransformer3DModel,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    ModelMixin,
    PixArtTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableCascadeUNet,
    Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
    UNet3DConditionModel,
    UNetMotionModel,
    UNetSpatioTemporalConditionModel,
    ZImageTransformer2DModel,
)

WHERE = "docs/models.md"  # where the tables are


@dataclass(frozen=True)
class Family:
    """A class of denoisers: the models that have it, which self-attentions are replaced, and what goes on attending."""

    models: str
    replaced: str
    stays: str


_BLOCKS = "of its transformer blocks"
_BOTH = "of its transformer blocks; of its `AttnDownBlock2D` and the like"
_SPATIAL = "of its spatial transformer blocks, each frame by itself"
_TEXT = "cross-attention to the text"
_ADDED = "from image to image where the text adds keys and values"
_JOINT = "from image to image in joint attention"
_TO_TEXT = "from text to everything, from image to text"
_TIME = "cross-attention to the text; attention along time"

FAMILIES: dict[type[ModelMixin], Family] = {
    UNet2DConditionModel: Family(
        "Stable Diffusion 1 and 2, SDXL, Kandinsky 2.2, DeepFloyd IF",
        f"{_BOTH}; {_ADDED}",
        "cross-attention to the text, from image to the text",
    ),
    ControlNetModel: Family("ControlNets of these", _BLOCKS, _TEXT),
    PixArtTransformer2DModel: Family("PixArt-α, PixArt-Σ", _BLOCKS, _TEXT),
    DiTTransformer2DModel: Family("DiT, class-conditional", _BLOCKS, "nothing"),
    Transformer2DModel: Family("DiT in diffusers' older class", _BLOCKS, "cross-attention, where there is one"),
    HunyuanDiT2DModel: Family("HunyuanDiT", _BLOCKS, _TEXT),
    UNet2DModel: Family("DDPM and other UNets without text", "of its `AttnDownBlock2D` and the like", "nothing"),
    LuminaNextDiT2DModel: Family("Lumina-Next", _BLOCKS, _TEXT),
    Kandinsky3UNet: Family("Kandinsky 3", "of its attention blocks that are given no text", _TEXT),
    StableCascadeUNet: Family("Stable Cascade", _ADDED, "from image to the text"),
    SD3Transformer2DModel: Family("Stable Diffusion 3, 3.5", f"{_JOINT}; `attn2` of dual blocks", _TO_TEXT),
    FluxTransformer2DModel: Family("FLUX.1", f"{_JOINT}, in double and single blocks", _TO_TEXT),
    Flux2Transformer2DModel: Family("FLUX.2", f"{_JOINT}, in double and single blocks", _TO_TEXT),
    QwenImageTransformer2DModel: Family("Qwen-Image", _JOINT, _TO_TEXT),
    CogView4Transformer2DModel: Family("CogView4", _JOINT, _TO_TEXT),
    Lumina2Transformer2DModel: Family("Lumina 2", f"{_JOINT}; of the image in its refining blocks", _TO_TEXT),
    ZImageTransformer2DModel: Family("Z-Image", f"{_JOINT}; of the image in its refining blocks", _TO_TEXT),
    AuraFlowTransformer2DModel: Family("AuraFlow", f"{_JOINT}, in double and single blocks", _TO_TEXT),
    ChromaTransformer2DModel: Family("Chroma", f"{_JOINT}, in double and single blocks", _TO_TEXT),
    UNetMotionModel: Family("AnimateDiff", _SPATIAL, _TIME),
    UNet3DConditionModel: Family("ModelScope, Zeroscope", _SPATIAL, _TIME),
    I2VGenXLUNet: Family("I2VGen-XL", _SPATIAL, _TIME),
    UNetSpatioTemporalConditionModel: Family("Stable Video Diffusion", _SPATIAL, "attention to the image; along time"),
    LatteTransformer3DModel: Family("Latte", _SPATIAL, _TIME),
}

# Why a class of diffusers is refused: the reason, and the classes that share it.
REFUSED: dict[str, tuple[str, ...]] = {
    "its attention is linear in the tokens already": (
        "SanaTransformer2DModel",
        "SanaControlNetModel",
        "SanaVideoTransformer3DModel",
        "SanaWMTransformer3DModel",
    ),
    "its attention spans space and time, and a ΔConvBlock is two-dimensional": (
        "AllegroTransformer3DModel",
        "AnyFlowFARTransformer3DModel",
        "AnyFlowTransformer3DModel",
        "ChronoEditTransformer3DModel",
        "CogVideoXTransformer3DModel",
        "ConsisIDTransformer3DModel",
        "Cosmos3OmniTransformer",
        "CosmosControlNetModel",
        "CosmosTransformer3DModel",
        "EasyAnimateTransformer3DModel",
        "HeliosTransformer3DModel",
        "HunyuanVideo15Transformer3DModel",
        "HunyuanVideoFramepackTransformer3DModel",
        "HunyuanVideoTransformer3DModel",
        "JoyImageEditPlusTransformer3DModel",
        "JoyImageEditTransformer3DModel",
        "Kandinsky5Transformer3DModel",
        "Kandinsky6SRTransformer3DModel",
        "Kandinsky6Transformer3DModel",
        "LTX2VideoTransformer3DModel",
        "LTXVideoTransformer3DModel",
        "MiniMaxH3Transformer3DModel",
        "MochiTransformer3DModel",
        "MotifVideoTransformer3DModel",
        "SanaWMLTX2RefinerTransformer3DModel",
        "SkyReelsV2Transformer3DModel",
        "WanAnimate2Transformer3DModel",
        "WanAnimateTransformer3DModel",
        "WanTransformer3DModel",
        "WanVACETransformer3DModel",
    ),
    "its tokens lie on a line, not on a grid of an image": (
        "AceStepTransformer1DModel",
        "LongCatAudioDiTTransformer",
        "MiniMaxMusic3Transformer1DModel",
        "PriorTransformer",
        "RFD4ProteinaTransformer",
        "StableAudio3DiTModel",
        "StableAudioDiTModel",
        "T5FilmDecoder",
        "TransformerTemporalModel",
        "UNet1DModel",
    ),
    "image and text share its attention in a way that no adapter covers yet": (
        "BriaFibo2Transformer2DModel",
        "BriaFiboTransformer2DModel",
        "BriaTransformer2DModel",
        "CogView3PlusTransformer2DModel",
        "ErnieImageTransformer2DModel",
        "Flux3Transformer2DModel",
        "GlmImageTransformer2DModel",
        "HiDreamImageTransformer2DModel",
        "HunyuanImageTransformer2DModel",
        "Ideogram4Transformer2DModel",
        "Krea2Transformer2DModel",
        "NucleusMoEImageTransformer2DModel",
        "OmniGenTransformer2DModel",
        "OvisImageTransformer2DModel",
        "PRXTransformer2DModel",
        "QwenImage21Transformer2DModel",
        "UniDiffuserModel",
    ),
    "its blocks get no argument, at least under checkpointing, in which a grid could reach the attention": (
        "LongCatImageTransformer2DModel",
    ),
    "it is one of several control networks around a denoiser: convert the denoiser itself": (
        "ControlNetUnionModel",
        "ControlNetXSAdapter",
        "FluxControlNetModel",
        "FluxMultiControlNetModel",
        "HunyuanDiT2DControlNetModel",
        "HunyuanDiT2DMultiControlNetModel",
        "MultiControlNetModel",
        "QwenImageControlNetModel",
        "QwenImageMultiControlNetModel",
        "SD3ControlNetModel",
        "SD3MultiControlNetModel",
        "SparseControlNetModel",
        "UNetControlNetXSModel",
        "ZImageControlNetModel",
    ),
    "it is not supported yet": (
        "AudioLDM2UNet2DConditionModel",
        "DreamLiteTransformer2DModel",
        "DreamLiteUNetModel",
        "UVit2DModel",
    ),
}


# Classes as which diffusers loads what was saved as another one.
LOADED_AS: dict[str, tuple[str, ...]] = {"Transformer2DModel": ("DiTTransformer2DModel", "PixArtTransformer2DModel")}


def why_refused(class_name: str) -> str | None:
    """The reason for which denoisers of this class are refused, or None: it is supported, or no denoiser."""
    return next((reason for reason, classes in REFUSED.items() if class_name in classes), None)


def supported_table() -> Iterator[str]:
    """The lines of a Markdown table of FAMILIES."""
    yield "| class | models | self-attentions replaced | what stays |"
    yield "| --- | --- | --- | --- |"
    for kind, family in FAMILIES.items():
        yield f"| `{kind.__name__}` | {family.models} | {family.replaced} | {family.stays} |"


def refused_table() -> Iterator[str]:
    """The lines of a Markdown table of REFUSED."""
    yield "| refused because | classes |"
    yield "| --- | --- |"
    for reason, classes in REFUSED.items():
        yield f"| {reason} | {', '.join(f'`{name}`' for name in classes)} |"
