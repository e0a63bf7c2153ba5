"""Conversion: self-attention out of diffusers models, ΔConvBlocks in."""

from .fusion import DeltaConvFusion
from .kernel_sizes import kernel_size_for_field
from .plan import ConversionPlan, Goal
from .report import FusionReport, LayerReport

__all__ = ["ConversionPlan", "DeltaConvFusion", "FusionReport", "Goal", "LayerReport", "kernel_size_for_field"]
