"""Diffusion models without self-attention: conversion, distillation and generation with ΔConvBlocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conversion import DeltaConvFusion

__all__ = ["DeltaConvFusion"]


def __getattr__(name: str) -> Any:
    """Imported when first used: diffusers takes seconds, and `deltaconv info` answers without it."""
    if name == "DeltaConvFusion":
        from .conversion import DeltaConvFusion

        return DeltaConvFusion
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
