"""What a conversion changed: layers, parameters, and FLOPs at any size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from diffusers import ModelMixin

from deltaconv_kernels import DeltaConvBlock

from .flops import attention_flops, block_flops
from .sites import Site

DEFAULT_SAMPLE_SIZE = 64  # latent pixels, for models whose config names none (ControlNets)


@dataclass(frozen=True)
class LayerReport:
    """One replaced self-attention; `stride` is the number of sample (latent) pixels along each side of a token."""

    name: str
    dim: int
    inner_dim: int
    inter: int
    kernel_size: int
    factors: tuple[int, ...]
    gate: str
    stride: int
    attention_parameters: int
    block_parameters: int

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Tokens (down, across) for a sample of height x width latent pixels."""
        return -(-height // self.stride), -(-width // self.stride)

    def attention_flops(self, height: int, width: int) -> int:
        """FLOPs of the self-attention for one sample of height x width latent pixels."""
        h, w = self.grid(height, width)
        return attention_flops(h * w, self.dim, self.inner_dim)

    def block_flops(self, height: int, width: int) -> int:
        """FLOPs of the ΔConvBlock for one sample of height x width latent pixels."""
        return block_flops(*self.grid(height, width), self.dim, self.inter, self.kernel_size, self.factors)


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

    def attention_flops(self, height: int | None = None, width: int | None = None) -> int:
        """FLOPs of all replaced self-attentions for one sample; the model's own sample size unless given."""
        return sum(layer.attention_flops(*self._size(height, width)) for layer in self.layers)

    def block_flops(self, height: int | None = None, width: int | None = None) -> int:
        """FLOPs of all ΔConvBlocks for one sample; the model's own sample size unless given."""
        return sum(layer.block_flops(*self._size(height, width)) for layer in self.layers)

    def table(self, height: int | None = None, width: int | None = None) -> str:
        """Every layer and the sums at a size, for reading."""
        height, width = self._size(height, width)
        name_width = max(len(layer.name) for layer in self.layers)
        lines = [
            f"{self.denoiser}: {len(self.layers)} self-attentions replaced, {len(self.excluded)} excluded, "
            f"{len(self.skipped)} skipped; kernel sizes {self.kernel_sizes_from}",
            f"parameters: {self.parameters_before:,} before, {self.parameters_after:,} after",
            f"{'layer':<{name_width}}  {'dim':>5}  {'K':>2}  {'tokens':>9}  "
            f"{'attention':>13}  {'ΔConvBlock':>13}  ratio",
        ]
        for layer in self.layers:
            before, after = layer.attention_flops(height, width), layer.block_flops(height, width)
            grid = "x".join(map(str, layer.grid(height, width)))
            lines.append(
                f"{layer.name:<{name_width}}  {layer.dim:>5}  {layer.kernel_size:>2}  {grid:>9}  {_readable(before)}  "
                f"{_readable(after)}  {before / after:5.2f}"
            )
        before, after = self.attention_flops(height, width), self.block_flops(height, width)
        total = f"all, at {height} x {width} latent pixels"
        lines.append(f"{total:<{name_width + 22}}  {_readable(before)}  {_readable(after)}  {before / after:5.2f}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        return height or self.sample_size[0], width or self.sample_size[1]


def report_layer(site: Site, block: DeltaConvBlock) -> LayerReport:
    """Describe a self-attention and the block in its place."""
    blocks = sum(parameter.numel() for parameter in block.parameters())
    return LayerReport(
        name=site.name,
        dim=block.dim,
        inner_dim=site.attention.inner_dim,
        inter=block.in_proj.out_features,
        kernel_size=block.kernel_size,
        factors=block.factors,
        gate=block.gate,
        stride=site.stride,
        attention_parameters=sum(parameter.numel() for parameter in site.attention.parameters()) - blocks,
        block_parameters=blocks,
    )


def sample_size_of(denoiser: ModelMixin) -> tuple[int, int]:
    """The height and width in latent pixels that a denoiser was trained for."""
    size = denoiser.config.get("sample_size") or DEFAULT_SAMPLE_SIZE
    return (size, size) if isinstance(size, int) else tuple(size)


def _readable(flops: int) -> str:
    thousands = min((len(str(flops)) - 1) // 3, 5)
    return f"{flops / 1000**thousands:7.4g} {('', 'k', 'M', 'G', 'T', 'P')[thousands] + 'FLOP':>5}"
