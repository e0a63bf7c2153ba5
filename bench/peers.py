"""What the operator and the block are measured against: the same mathematics as PyTorch users write it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltaconv_kernels.testing import Case


class EagerPyramid:
    """The operator from PyTorch's own functions, in the storage type, on NCHW tensors of one memory format."""

    def __init__(self, case: Case, memory_format: torch.memory_format) -> None:
        self.case = case
        self.x = case.x.permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
        self.grad = case.grad.permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
        filters = case.weight.permute(0, 3, 1, 2).unsqueeze(2)  # [S, C, 1, K, K], conv2d's layout
        self.filters = [f.contiguous(memory_format=memory_format) for f in filters]
        self.biases = [None] * len(filters) if case.bias is None else list(case.bias)

    def __call__(self, x: Tensor, filters: list[Tensor], biases: list[Tensor | None]) -> Tensor:
        stages = []
        for factor, weight, bias in zip(self.case.factors, filters, biases, strict=True):
            height, width = x.shape[-2:]
            pooled = x if factor == 1 else F.adaptive_avg_pool2d(x, (height // factor, width // factor))
            a = F.conv2d(pooled, weight, bias, padding=weight.shape[-1] // 2, groups=x.shape[1])
            u, v = a.chunk(2, dim=1)
            gated = u * (self.case.gate_scale * v)
            stages.append(
                gated
                if factor == 1
                else F.interpolate(gated, size=(height, width), mode="bilinear", align_corners=False)
            )
        return torch.cat(stages, dim=1)

    def forward(self) -> Tensor:
        with torch.no_grad():
            return self(self.x, self.filters, self.biases)

    def gradients(self, function: Callable[..., Tensor] | None = None) -> tuple[Tensor, ...]:
        """Gradients of x, then of each filter, then of each bias."""
        x = self.x.detach().requires_grad_()
        filters = [f.detach().requires_grad_() for f in self.filters]
        biases = [None if b is None else b.detach().requires_grad_() for b in self.biases]
        y = (function or self)(x, filters, biases)
        return torch.autograd.grad(y, (x, *filters, *(b for b in biases if b is not None)), self.grad)


class SelfAttention(nn.Module):
    """A diffusion transformer's self-attention layer: projections, SDPA, output projection; [B, L, dim]."""

    def __init__(self, dim: int, heads: int = 8, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim, bias=False, dtype=dtype) for _ in range(3))
        self.to_out = nn.Linear(dim, dim, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (to(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for to in (self.to_q, self.to_k, self.to_v))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
