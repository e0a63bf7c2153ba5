"""The `triton` backend: what it needs, and its two entry points. Triton itself is imported at the first call."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on any tensor and slowly: for tests, without a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def device_types() -> tuple[str, ...]:
    """Where the backend computes; torch calls AMD's GPUs cuda as well."""
    return ("cuda", "cpu") if interpreted() else ("cuda",)


@cache
def why_not_here() -> str | None:
    """None if the backend can run on this machine, else the reason."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'deltaconv-kernels[triton]')"
    if interpreted() or torch.cuda.is_available():
        return None
    return "no CUDA or ROCm device was found (TRITON_INTERPRET=1 runs it on the CPU, for tests)"


def pyramid_forward(*args: Any) -> Tensor:
    """The arguments of deltaconv::pyramid, every one given."""
    from . import launch

    return launch.pyramid_forward(*args)


def pyramid_backward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of deltaconv::pyramid_backward."""
    from . import launch

    return launch.pyramid_backward(*args)
