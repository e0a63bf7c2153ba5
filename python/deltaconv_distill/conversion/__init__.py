"""Conversion: self-attention out of diffusers models, ΔConvBlocks in."""

from .fusion import DeltaConvFusion
from .kernel_sizes import kernel_size_for_field
from .report import FusionReport, LayerReport

__all__ = ["DeltaConvFusion", "FusionReport", "LayerReport", "kernel_size_for_field"]
