"""Casts of weights inside an autocast region, kept until it ends, as PyTorch keeps those of its own operators.

PyTorch's cache has no entry for Python, and nothing says when a region ends. So each region gets a token: a tensor that
PyTorch itself casts and keeps as it keeps a weight. What the cast returned lives as long as the region's cache, and the
casts kept here go when it dies: at the end of the outermost region, or with `torch.clear_autocast_cache()`.
"""

from __future__ import annotations

import weakref
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Kept(NamedTuple):
    weight: weakref.ref[Tensor]
    version: int
    cast: Tensor


_kept: dict[tuple[Any, ...], _Kept] = {}
_CPU = torch.device("cpu")
_region: weakref.ref[Tensor] | None = None  # of the token's cast


def cast_once(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``weight`` in ``dtype``, inside a region: the same tensor, and node of the graph, at each call in that region."""
    if not _is_kept(weight) or not _has_region():
        return weight.to(dtype)
    # What was cast without recording gradients is no use to a call that records them.
    key = id(weight), dtype, torch.is_grad_enabled()
    kept = _kept.get(key)
    if kept is None or kept.weight() is not weight or kept.version != weight._version:
        kept = _kept[key] = _Kept(weakref.ref(weight), weight._version, weight.to(dtype))
    return kept.cast


def _is_kept(weight: Tensor) -> bool:
    """PyTorch's rule: float32 leaves with gradients. Not where a mode or a transform would see one call of several."""
    return (
        torch.is_autocast_cache_enabled()
        and not torch.is_inference_mode_enabled()
        and type(weight) in (Tensor, nn.Parameter)
        and weight.dtype == torch.float32
        and weight.requires_grad
        and weight.is_leaf
        and not weight._is_view()
        and not weight.is_inference()  # has no version
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
        and not torch.jit.is_tracing()
    )


def _has_region() -> bool:
    """Whether the end of this region will be seen. Its first call here has PyTorch cast the token.

    There is one cache for all devices, so the token is on the CPU: nothing is launched on a GPU.
    """
    if _region is None or _region() is None:
        with torch.autocast("cpu", torch.bfloat16):  # inside the outermost region: its end clears nothing
            F.linear(_number(False), _number(True))
    return _region is not None and _region() is not None


class _Number(Tensor):
    """One number of float32, without memory. Every operator on it gives an ordinary tensor."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        global _region
        result = torch.zeros(1, 1, dtype=(kwargs or {}).get("dtype"))
        if args[0].requires_grad:  # it is the token
            _region = weakref.ref(result, _forget)
        return result


@cache
def _number(is_token: bool) -> Tensor:
    return Tensor._make_wrapper_subclass(_Number, (1, 1), dtype=torch.float32, device=_CPU, requires_grad=is_token)


def _forget(region: weakref.ref[Tensor]) -> None:
    if region is _region:
        _kept.clear()
