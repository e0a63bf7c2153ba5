"""The arguments of a whole block, as one value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class BlockArguments(NamedTuple):
    """The arguments of `deltaconv::block`, in its order; see `delta_block`."""

    x: Tensor
    in_weight: Tensor
    in_bias: Tensor | None
    weight: Tensor
    bias: Tensor | None
    out_weight: Tensor
    out_bias: Tensor | None
    pool_weight: Tensor
    pool_bias: Tensor | None
    factors: Sequence[int]
    gate: str = "scaled"
    gate_scale: float = 1.0
    residual: Tensor | None = None

    @property
    def inter(self) -> int:
        """The width inside the block."""
        return self.in_weight.shape[0]

    @property
    def tensors(self) -> list[Tensor]:
        """Those that are given, x first."""
        return [tensor for tensor in (*self[:9], self.residual) if isinstance(tensor, Tensor)]
