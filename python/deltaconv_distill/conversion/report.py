"""What a conversion changed: layers, parameters, and FLOPs at any size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import ModelMixin

from deltaconv_kernels import DeltaConvBlock

from .flops import Flops, TextStream, joint_flops, layer_flops
from .model_inputs import text_tokens_of
from .routing import BLOCK, StandIn
from .sites import Site, find_sites

# Latent pixels, for models whose config names none; 64 for all others (ControlNets).
DEFAULT_SAMPLE_SIZES = {
    "ChromaTransformer2DModel": 128,
    "Flux2Transformer2DModel": 128,
    "FluxTransformer2DModel": 128,
    "QwenImageTransformer2DModel": 128,
    "ZImageTransformer2DModel": 128,
}


@dataclass(frozen=True)
class LayerReport:
    """One replaced self-attention; `stride` is the number of sample (latent) pixels along each side of a token.

    `attention_parameters` are those that the block makes superfluous: all but of a joint attention."""

    name: str
    dim: int
    inner_dim: int
    heads: int
    inter: int
    kernel_size: int
    factors: tuple[int, ...]
    gate: str
    stride: int
    attention_parameters: int
    block_parameters: int
    kv_dim: int  # channels of keys, and of values
    has_outputs: bool  # whether the attention has an output projection of its own
    text: TextStream | None = None  # of a joint attention

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Tokens (down, across) for a sample of height x width latent pixels."""
        return -(-height // self.stride), -(-width // self.stride)

    def flops(self, height: int, width: int) -> Flops:
        """For one sample of height x width latent pixels."""
        grid = self.grid(height, width)
        options = (self.dim, self.inner_dim, self.heads)
        plain = layer_flops(*grid, *options, self.inter, self.kernel_size, self.factors, self.kv_dim, self.has_outputs)
        return plain if self.text is None else joint_flops(plain, grid[0] * grid[1], self.text, *options, self.kv_dim)


@dataclass(frozen=True)
class FusionReport:
    """What `DeltaConvFusion` replaced in a denoiser. `str()` is a table; sizes are in latent pixels."""

    denoiser: str
    kernel_sizes_from: str
    layers: tuple[LayerReport, ...]
    excluded: tuple[str, ...]
    skipped: Mapping[str, str]
    parameters_before: int
    parameters_after: int
    sample_size: tuple[int, int]

    def flops(self, height: int | None = None, width: int | None = None) -> Flops:
        """Of all replaced layers for one sample of latents; the model's own sample size unless given."""
        return Flops.total(layer.flops(*self._size(height, width)) for layer in self.layers)

    def table(self, height: int | None = None, width: int | None = None) -> str:
        """Every layer and the sums at a size, for reading."""
        height, width = self._size(height, width)
        name_width = max(len(layer.name) for layer in self.layers)
        lines = [
            f"{self.denoiser}: {len(self.layers)} self-attentions replaced, {len(self.excluded)} excluded, "
            f"{len(self.skipped)} skipped; kernel sizes {self.kernel_sizes_from}",
            *(f"skipped {name}: {reason}" for name, reason in self.skipped.items()),
            f"parameters: {self.parameters_before:,} before, {self.parameters_after:,} after",
            f"{'layer':<{name_width}}  {'dim':>5}  {'K':>2}  {'tokens':>9}  "
            f"{'attention':>13}  {'ΔConvBlock':>13}  ratio",
        ]
        for layer in self.layers:
            flops = layer.flops(height, width)
            grid = "x".join(map(str, layer.grid(height, width)))
            name = f"{layer.name:<{name_width}}  {layer.dim:>5}  {layer.kernel_size:>2}  {grid:>9}"
            lines.append(f"{name}  {_before_and_after(flops)}")
        total = f"all, at {height} x {width} latent pixels"
        lines.append(f"{total:<{name_width + 22}}  {_before_and_after(self.flops(height, width))}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        return height or self.sample_size[0], width or self.sample_size[1]


def summary(config: Mapping[str, Any], blocks: Mapping[str, DeltaConvBlock], attached: bool) -> str:
    """A fusion in a few lines, whatever its size."""
    sizes = [block.kernel_size for block in blocks.values()]
    parameters = [parameter for block in blocks.values() for parameter in block.parameters()]
    options = {(block.gate, block.factors) for block in blocks.values()}
    return "\n".join(
        [
            f"DeltaConvFusion for a {config['denoiser']}, {'attached' if attached else 'not attached'}",
            f"  blocks:       {len(blocks)}; {len(config['excluded'])} self-attentions were excluded",
            f"  parameters:   {sum(parameter.numel() for parameter in parameters):,}, {parameters[0].dtype} on "
            f"{parameters[0].device}",
            f"  kernel sizes: {', '.join(f'{size} (x{sizes.count(size)})' for size in sorted(set(sizes)))}; "
            f"{config['kernel_sizes_from']}",
            f"  gate:         {'; '.join(f'{gate}, factors {factors}' for gate, factors in sorted(options))}",
            "  fusion.report has every layer, parameters and FLOPs before and after",
        ]
    )


def report_fusion(
    denoiser: ModelMixin, config: Mapping[str, Any], blocks: Mapping[str, DeltaConvBlock]
) -> FusionReport:
    """Describe what the blocks of a fusion with `config` replace in the denoiser that they are attached to."""
    sites = find_sites(denoiser)
    layers = tuple(_report_layer(sites.found[name], block, text_tokens_of(denoiser)) for name, block in blocks.items())
    added = sum(layer.block_parameters for layer in layers)
    before = sum(parameter.numel() for parameter in denoiser.parameters()) - added
    return FusionReport(
        denoiser=config["denoiser"],
        kernel_sizes_from=config["kernel_sizes_from"],
        layers=layers,
        excluded=tuple(config["excluded"]),
        skipped=sites.skipped,
        parameters_before=before,
        parameters_after=before - sum(layer.attention_parameters for layer in layers) + added,
        sample_size=sample_size_of(denoiser),
    )


def _report_layer(site: Site, block: DeltaConvBlock, text_tokens: int) -> LayerReport:
    """Describe a self-attention and the block in its place."""
    blocks = sum(parameter.numel() for parameter in block.parameters())
    return LayerReport(
        name=site.name,
        dim=block.dim,
        inner_dim=site.inner_dim,
        heads=site.heads,
        inter=block.in_proj.out_features,
        kernel_size=block.kernel_size,
        factors=block.factors,
        gate=block.gate,
        stride=site.stride,
        attention_parameters=_idle_parameters(site.attention),
        text=site.text_stream(text_tokens),
        block_parameters=blocks,
        kv_dim=site.kv_dim,
        has_outputs=site.has_outputs,
    )


def _idle_parameters(attention: StandIn) -> int:
    """How many of a replaced attention's own parameters its student does without."""
    return sum(
        parameter.numel()
        for name, parameter in attention.named_parameters()
        if not name.startswith(f"{BLOCK}.") and attention.is_idle(name)
    )


def sample_size_of(denoiser: ModelMixin) -> tuple[int, int]:
    """The height and width in latent pixels that a denoiser was trained for."""
    size = denoiser.config.get("sample_size") or DEFAULT_SAMPLE_SIZES.get(type(denoiser).__name__, 64)
    return (size, size) if isinstance(size, int) else tuple(size)


def readable_flops(flops: int) -> str:
    """Four digits and a unit, in 13 columns."""
    thousands = min((len(str(flops)) - 1) // 3, 6)
    return f"{flops / 1000**thousands:7.4g} {('', 'k', 'M', 'G', 'T', 'P', 'E')[thousands] + 'FLOP':>5}"


def _before_and_after(flops: Flops) -> str:
    before, after = readable_flops(flops.attention), readable_flops(flops.block)
    return f"{before}  {after}  {flops.ratio('attention', 'block'):5.2f}"
