"""DeltaConvBlock: what stands in a diffusion model where self-attention was."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import fusing
from .block_arguments import BlockArguments
from .block_ops import compose, run_fused
from .fusing import is_plain, why_not_fused, why_not_now
from .namespace import operators
from .ops import pyramid
from .validation import check_against_parameters, check_block_options, check_stream


class DeltaConvBlock(nn.Module):
    """The ΔConvBlock of ΔConvFusion (arXiv 2504.21292, section 4): local pyramid plus global average.

    delta = out_proj(pyramid(in_proj(x))) + pool_proj(mean of x over H and W)

    Args:
        dim: channels of the stream.
        kernel_size: K, odd, 1 to 31.
        factors: reduction factor of each of the S stages; 1 is full resolution.
        expansion: width inside the block, inter = expansion * dim, rounded to an even number of at least 2.
        gate: "scaled" (UNets in the paper; gate_scale = sqrt(inter / 2)) or "sigmoid" (PixArt; gate_scale = 1).
        bias: whether the convolutions have one.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 13,
        factors: Sequence[int] = (1, 2),
        expansion: float = 0.5,
        gate: str = "scaled",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_block_options(dim, kernel_size, factors, expansion, gate)
        inter = max(2, 2 * round(expansion * dim / 2))
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.dim, self.kernel_size, self.factors, self.gate = dim, kernel_size, tuple(factors), gate
        self._inter = inter
        self.gate_scale = math.sqrt(inter / 2) if gate == "scaled" else 1.0
        self.in_proj = nn.Linear(dim, inter, **options)
        self.weight = nn.Parameter(torch.empty(len(factors), kernel_size, kernel_size, inter, **options))
        self.bias = nn.Parameter(torch.empty(len(factors), inter, **options)) if bias else None
        self.out_proj = nn.Linear(len(factors) * inter // 2, dim, **options)
        self.pool_proj = nn.Linear(dim, dim, **options)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in ±1/sqrt(fan-in), as nn.Linear and nn.Conv2d do; a depthwise filter's fan-in is K * K."""
        for linear in (self.in_proj, self.out_proj, self.pool_proj):
            linear.reset_parameters()
        bound = 1 / self.kernel_size
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x: [B, H, W, dim]; residual: the same shape or None, added to the delta. Returns [B, H, W, dim]."""
        if isinstance(x, torch.fx.Proxy):  # torch.fx.symbolic_trace: no sizes or types are known
            return _with_residual(self._composed(x, None), residual)
        check_stream(x, residual, self.dim)
        if x.device.type in fusing.FUSED_ON and why_not_fused(x, self._inter, self.factors, residual) is None:
            arguments = self.arguments(x, residual)
            if why_not_now(arguments, self._projections()) is None:
                tracing = torch.compiler.is_compiling()
                return operators.block(*arguments) if tracing else run_fused(arguments)
        try:
            return self._composed(x, residual)
        except RuntimeError:
            if is_plain(self.in_proj):
                check_against_parameters(x, self.weight)  # in words that nn.Linear, which refused, has not
            raise

    def arguments(self, x: Tensor, residual: Tensor | None = None) -> BlockArguments:
        """What `delta_block` computes this block from."""
        into, out, pool = self.in_proj, self.out_proj, self.pool_proj
        return BlockArguments(
            x,
            into.weight,
            into.bias,
            self.weight,
            self.bias,
            out.weight,
            out.bias,
            pool.weight,
            pool.bias,
            self.factors,
            self.gate,
            self.gate_scale,
            residual,
        )

    def why_not_fused(self, x: Tensor, residual: Tensor | None = None) -> str | None:
        """None if the forward pass of these tensors is four launches of the `cuda` backend, else the reason."""
        reason = why_not_fused(x, self._inter, self.factors, residual)
        return reason or why_not_now(self.arguments(x, residual), self._projections())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DeltaConvBlock:
        """`block.to(memory_format=torch.channels_last)` orders planes; here channels are innermost as it is."""
        super()._apply(fn, recurse)
        if not self.weight.is_contiguous():
            self.weight.data = self.weight.data.contiguous()
        return self

    def _projections(self) -> tuple[nn.Module, ...]:
        return self.in_proj, self.out_proj, self.pool_proj

    def _composed(self, x: Tensor, residual: Tensor | None) -> Tensor:
        out_proj = self.out_proj
        return compose(x, self.in_proj, self._pyramid, out_proj, self.pool_proj, residual, is_plain(out_proj))

    def _pyramid(self, hidden: Tensor) -> Tensor:
        return pyramid(hidden, self.weight, self.bias, self.factors, self.gate, self.gate_scale)

    def __prepare_scriptable__(self) -> DeltaConvBlock:
        raise RuntimeError(
            "torch.jit.script cannot compile a DeltaConvBlock: use torch.jit.trace, torch.export or torch.compile"
        )

    def extra_repr(self) -> str:
        return f"dim={self.dim}, kernel_size={self.kernel_size}, factors={self.factors}, gate={self.gate!r}"


@torch.fx.wrap
def _with_residual(delta: Tensor, residual: Tensor | None) -> Tensor:
    """One node of a graph that torch.fx traces: whether a block is called with a residual is known when it runs."""
    return delta if residual is None else residual + delta
