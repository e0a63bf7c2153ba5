"""Where a call of a denoiser's part says how many tokens there are down and across, and how that travels further."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

Grid = tuple[int, int]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class InputGrid:
    """The grid is that of the module's first argument, [..., H, W], in patches.

    patch_size: elements of that argument along each side of a token.
    carrier: the argument of the module that reaches the attentions inside as keywords of their own, a dict; None where
        the module is the attention itself.
    """

    patch_size: int = 1
    carrier: str | None = "cross_attention_kwargs"

    def grid(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Grid:
        """
        Raises:
            ValueError: height or width is no multiple of the patch size.
        """
        height, width = (args[0] if args else kwargs["hidden_states"]).shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"hidden_states: expected latents of a height and width that are multiples of {self.patch_size}, the "
                f"patch size, got {height} x {width}"
            )
        return height // self.patch_size, width // self.patch_size
