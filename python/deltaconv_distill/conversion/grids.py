"""Where a call of a denoiser's part says how many tokens there are down and across, and how that travels further."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Grid = tuple[int, int]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


NOTED = "noted for the call"  # in a carrier's place, where no argument of the module reaches the attentions


@dataclass(frozen=True)
class InputGrid:
    """The grid is that of the module's first argument, hidden_states or sample, [..., H, W], in patches.

    patch_size: elements of that argument along each side of a token.
    carrier: the argument of the module that reaches the attentions inside as keywords of their own, a dict; NOTED where
        there is none (`notes`); None where the module is the attention itself.
    """

    patch_size: int = 1
    carrier: str | None = "cross_attention_kwargs"

    def grid(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], size: Grid | None = None) -> Grid:
        """Tokens down and across in a call of the module; `size`, the latents' as the user has said it, is not needed.

        Raises:
            ValueError: height or width is no multiple of the patch size.
        """
        given = args[0] if args else kwargs["hidden_states" if "hidden_states" in kwargs else "sample"]
        height, width = given.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"hidden_states: expected latents of a height and width that are multiples of {self.patch_size}, the "
                f"patch size, got {height} x {width}"
            )
        return height // self.patch_size, width // self.patch_size


@dataclass(frozen=True)
class IdsGrid(InputGrid):
    """The grid is that of the positions `img_ids`, [N, D] or [B, N, D], of tokens that hold patch_size² latent pixels.

    Row and column are the second and the third of a token's D positions; the others are the same for all.

    Reading them waits for the device once a forward, and torch.compile cannot follow it inside one graph: there
    `DeltaConvFusion.at_size` says the size.

    position: of `img_ids` among the module's positional arguments; 4 in FluxTransformer2DModel.
    """

    position: int = 4

    def grid(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], size: Grid | None = None) -> Grid:
        """
        Raises:
            ValueError: the positions are not those of one image, row by row, or not of `size`.
        """
        ids = kwargs["img_ids"] if "img_ids" in kwargs else args[self.position]
        tokens = ids.shape[-2]
        if size is not None:
            height, width = (-(-side // self.patch_size) for side in size)
            if height * width != tokens:
                raise ValueError(
                    f"img_ids: expected {height} x {width} tokens of the size that at_size gave, got {tokens}"
                )
            return height, width
        positions = ids.reshape(-1, *ids.shape[-2:])[0].cpu()
        columns = int((positions[:, 1] == positions[0, 1]).sum())
        rows = tokens // columns
        expected = torch.zeros(rows, columns, positions.shape[1])
        expected[..., 1] = torch.arange(rows).to(positions.dtype)[:, None]
        expected[..., 2] = torch.arange(columns).to(positions.dtype)
        expected = expected.flatten(0, 1)
        if len(expected) != tokens or not torch.equal((positions - positions[0]).float(), expected):
            raise ValueError(
                f"img_ids: expected the positions of one image, row by row, got {tokens} tokens of which {columns} are "
                "in the first row"
            )
        return rows, columns


IMG_SHAPES = 4  # place among QwenImageTransformer2DModel's positional arguments


@dataclass(frozen=True)
class ShapesGrid(InputGrid):
    """The grid is that of `img_shapes`: for each example (1, H, W) in tokens, or a list with that alone."""

    def grid(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], size: Grid | None = None) -> Grid:
        """
        Raises:
            ValueError: more than one image an example, frames, or examples of different sizes.
        """
        shapes = kwargs["img_shapes"] if "img_shapes" in kwargs else args[IMG_SHAPES]
        images = [shape if isinstance(shape, list) else [shape] for shape in shapes]
        first = images[0][0]
        if first[0] != 1 or any(len(image) != 1 or tuple(image[0]) != tuple(first) for image in images):
            raise ValueError(f"img_shapes: expected (1, H, W) of one image, the same for all examples, got {shapes}")
        return first[1], first[2]


@dataclass(frozen=True)
class ListGrid(InputGrid):
    """The grid is that of each image in the module's first argument, a list of [C, 1, H, W], in patches."""

    def grid(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], size: Grid | None = None) -> Grid:
        """
        Raises:
            ValueError: images of different sizes, several images an example, or frames; height or width is no multiple
                of the patch size.
        """
        images = args[0] if args else kwargs["x"]
        shapes = [tuple(image.shape) if isinstance(image, torch.Tensor) else None for image in images]
        if shapes[0] is None or len(shapes[0]) != 4 or shapes[0][1] != 1 or len(set(shapes)) > 1:
            raise ValueError(f"x: expected one image an example, [C, 1, H, W], of one size for all, got {shapes}")
        return super().grid(module, (images[0],), {})
