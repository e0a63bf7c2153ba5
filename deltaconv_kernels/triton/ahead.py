"""Where this backend was measured ahead of the CUDA library: what "auto" goes by on a GPU that has both."""

from __future__ import annotations

import json
import math
from functools import cache, lru_cache
from pathlib import Path

import torch

from . import interpreted
from .configurations import device_kind

TABLE = Path(__file__).with_name("ahead.json")
CACHED_PROBLEMS = 4096


def problem_class(device: str, C: int, H: int, W: int, K: int, factors: tuple[int, ...], dtype: torch.dtype) -> str:
    """ "sm90/k9-f1.2-bfloat16-4^10": problems that are measured as one, an image's elements to a power of four."""
    size = round(math.log(H * W * C, 4))
    return f"{device}/k{K}-f{'.'.join(map(str, factors))}-{str(dtype).removeprefix('torch.')}-4^{size}"


@cache
def table() -> dict[str, dict[str, float]]:
    """The CUDA library's time over this backend's, by problem_class and pass ("forward", "forward-backward")."""
    return json.loads(TABLE.read_text())


@lru_cache(CACHED_PROBLEMS)
def is_ahead(
    C: int, H: int, W: int, K: int, factors: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> bool:
    """Whether every pass that was measured on such a problem was faster here; False where none was, or interpreted.

    One answer for both passes, so that a gradient comes from the backend that made the result.
    """
    ratios = table().get(problem_class(device_kind(device), C, H, W, K, factors, dtype), {})
    return min(ratios.values(), default=0.0) > 1 and not interpreted()
