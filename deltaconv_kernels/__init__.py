"""Fused pyramid depthwise convolutions: ΔConvBlocks (arXiv 2504.21292) in place of self-attention."""

from . import batching  # noqa: F401  teaches torch.vmap the operator
from .backends import BackendStatus, backends, use_backend
from .block import DeltaConvBlock
from .block_ops import delta_block
from .decomposition import decompositions
from .flops import pyramid_flops
from .ops import pyramid

__version__ = "0.1.0"
__all__ = [
    "BackendStatus",
    "DeltaConvBlock",
    "backends",
    "decompositions",
    "delta_block",
    "pyramid",
    "pyramid_flops",
    "use_backend",
]
