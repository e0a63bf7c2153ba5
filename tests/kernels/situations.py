"""What the lists of situations share, and what became of a situation: it works and is right, or an error is raised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deltaconv_kernels.testing import relative_error


def same(result: Tensor | Sequence[Tensor], expected: Tensor | Sequence[Tensor], budget: float = 1e-5) -> None:
    """Raise AssertionError unless the tensors, or each of several, agree."""
    results, right = ([t] if isinstance(t, Tensor) else list(t) for t in (result, expected))
    for ours, theirs in zip(results, right, strict=True):
        assert relative_error(ours.detach(), theirs.detach()) <= budget


def outcome(situation: Callable[..., Any], *subject: Any) -> str:
    """ "works", or the name of the error. A result that is wrong is neither: the AssertionError is passed on."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    try:
        situation(*subject)
    except AssertionError:
        raise
    except Exception as error:
        return type(error).__name__
    return "works"


def table(heads: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([name, *outcomes] for name, outcomes in rows.items())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
