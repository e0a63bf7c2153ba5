"""A denoiser whose grid is among its inputs' values (FLUX, Chroma), compiled as one graph by its `compile` method.

A graph cannot read values. What `nn.Module.compile` puts in front of the module can: it says the size to the graph, as
`DeltaConvFusion.at_size` does, so that there is one graph for each size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .grids import IdsGrid
from .hooks import Control
from .kinds.site import Sites


class SizedCall:
    """Calls what was compiled, with the size that the arguments have."""

    def __init__(self, denoiser: nn.Module, control: Control, source: IdsGrid, compiled: Callable[..., Any]) -> None:
        self.denoiser = denoiser
        self.control = control
        self.source = source
        self.compiled = compiled

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        now = self.control.now
        if now.size is not None:
            return self.compiled(*args, **kwargs)
        rows, columns = self.source.grid(self.denoiser, args, kwargs)
        now.size = (rows * self.source.patch_size, columns * self.source.patch_size)
        try:
            return self.compiled(*args, **kwargs)
        finally:
            now.size = None


def ids_of(denoiser: nn.Module, sites: Sites) -> IdsGrid | None:
    """Where a denoiser's grid is among the values of its inputs, or None."""
    sources = (owner.source for owner in sites.owners if owner.module is denoiser)
    return next((source for source in sources if isinstance(source, IdsGrid)), None)


def compile_sized(denoiser: nn.Module, control: Control, source: IdsGrid, *args: Any, **options: Any) -> None:
    """While attached: as `nn.Module.compile`."""
    type(denoiser).compile(denoiser, *args, **options)
    compiled: Any = denoiser._compiled_call_impl
    denoiser._compiled_call_impl = SizedCall(denoiser, control, source, compiled)


def forget_size(denoiser: nn.Module) -> None:
    """Undo `compile_sized`, but for the compilation."""
    call = denoiser._compiled_call_impl
    if isinstance(call, SizedCall):
        denoiser._compiled_call_impl = call.compiled
