"""The effective receptive field of a layer's output, by gradients (Luo et al. 2016, arXiv 1701.04128)."""

from __future__ import annotations

import torch
from torch import Tensor

from .geometry import Grid, add_at_displacements, count_pairs
from .hooks import Call


class FieldSums:
    """strength: [2H - 1, 2W - 1], summed over queries and batch; pairs: how many it is the sum of."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.strength = torch.zeros(2 * grid[0] - 1, 2 * grid[1] - 1)
        self.pairs = torch.zeros_like(self.strength)

    def add(self, call: Call, queries: Tensor, directions: Tensor) -> None:
        """Arguments as of `gradient_field`."""
        field = gradient_field(call, queries, directions)
        add_at_displacements(self.strength, field.sum(0).cpu(), queries, self.grid)
        self.pairs += len(field) * count_pairs(queries, self.grid)


def gradient_field(call: Call, queries: Tensor, directions: Tensor) -> Tensor:
    """How much the output at each query depends on the input at each token: [B, M, N] in float32.

    It is the root mean square, over the directions r, of the norm of ∂(r · output at the query) / ∂(input at the
    token). For normally distributed directions that estimates the Frobenius norm of the Jacobian's [C, C] block.

    Args:
        call: of the layer; its output is taken before the residual add, and that of a joint attention for queries that
            attend to the image alone.
        queries: M indices of tokens.
        directions: [R, C].
    """
    hidden_states = call.hidden_states
    with torch.enable_grad():
        inputs = hidden_states.detach().clone().requires_grad_()
        projected = call.project(inputs)
        scores = projected.query[:, :, queries] @ projected.key.transpose(-1, -2) * projected.scale
        outputs = call.project_out(scores.softmax(-1) @ projected.value, hidden_states.dtype)  # [B, M, C]
        rows = []
        for index in range(len(queries)):
            squares = torch.zeros(hidden_states.shape[:2], device=inputs.device)
            for direction in directions.to(outputs):
                (gradient,) = torch.autograd.grad((outputs[:, index] * direction).sum(), inputs, retain_graph=True)
                squares += gradient.float().square().sum(-1)
            rows.append((squares / len(directions)).sqrt())
    return torch.stack(rows, dim=1)


def central_queries(grid: Grid, count: int, generator: torch.Generator) -> Tensor:
    """Up to `count` different tokens from the middle half of the grid along both axes, so that few fields are cut."""
    (y0, y1), (x0, x1) = ((size // 4, max(size - size // 4, size // 4 + 1)) for size in grid)
    area = (y1 - y0) * (x1 - x0)
    chosen = torch.randperm(area, generator=generator)[:count]
    return (y0 + chosen // (x1 - x0)) * grid[1] + x0 + chosen % (x1 - x0)
