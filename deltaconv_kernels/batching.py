"""`torch.vmap` over the operator: V calls become one, with V times the images or V times the channels.

Images share their filters, so V joins the batch where filters are shared. Channels have filters of their own and are
computed pair by pair, so where filters or their gradients differ, V stands between halves and pairs: [2, C/2] becomes
[2, V, C/2], and pair p of call v is pair v * C/2 + p of V * C/2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .namespace import NAMESPACE, operators
from .ops import LIBRARY

_PYRAMID = operators.pyramid
_PYRAMID_BACKWARD = operators.pyramid_backward


@torch.library.register_vmap(f"{NAMESPACE}::pyramid", lib=LIBRARY)
def _pyramid(info, in_dims, x, weight, bias, factors, gate="scaled", gate_scale=1.0, residual=None):
    x_dim, weight_dim, bias_dim = in_dims[:3]
    residual_dim = in_dims[6] if residual is not None else None
    V, S = info.batch_size, len(factors)
    if weight_dim is None and bias_dim is None:
        y = _PYRAMID(
            _to_images(x, x_dim, V), weight, bias, factors, gate, gate_scale, _to_images(residual, residual_dim, V)
        )
        return _from_images(y, V), 0
    y = _PYRAMID(
        _to_channels(x, x_dim, V, 2),
        _to_channels(weight, weight_dim, V, 2),
        _to_channels(bias, bias_dim, V, 2),
        factors,
        gate,
        gate_scale,
        _to_channels(residual, residual_dim, V, S),
    )
    return _from_channels(y, V, S), 0


@torch.library.register_vmap(f"{NAMESPACE}::pyramid_backward", lib=LIBRARY)
def _pyramid_backward(info, in_dims, grad, x, weight, bias, factors, gate, gate_scale, output_mask):
    grad_dim, x_dim, weight_dim, bias_dim, *_ = in_dims
    V, S = info.batch_size, len(factors)
    options = factors, gate, gate_scale, output_mask
    if weight_dim is None and bias_dim is None and not any(output_mask[1:]):
        grads = _PYRAMID_BACKWARD(_to_images(grad, grad_dim, V), _to_images(x, x_dim, V), weight, bias, *options)
        return (_from_images(grads[0], V), *grads[1:]), (0, None, None)
    grads = _PYRAMID_BACKWARD(
        _to_channels(grad, grad_dim, V, S),
        _to_channels(x, x_dim, V, 2),
        _to_channels(weight, weight_dim, V, 2),
        _to_channels(bias, bias_dim, V, 2),
        *options,
    )
    wanted = (*output_mask[:2], output_mask[2] and bias is not None)
    return (
        tuple(_from_channels(g, V, 2) if wants else g for g, wants in zip(grads, wanted, strict=True)),
        tuple(0 if wants else None for wants in wanted),
    )


def _to_images(tensor: Tensor | None, dim: int | None, V: int) -> Tensor | None:
    """[V, B, …] with V at ``dim``, or [B, …] for every v, to [V * B, …]."""
    return None if tensor is None else _with_v_first(tensor, dim, V).flatten(0, 1)


def _from_images(tensor: Tensor, V: int) -> Tensor:
    return tensor.unflatten(0, (V, tensor.shape[0] // V))


def _to_channels(tensor: Tensor | None, dim: int | None, V: int, parts: int) -> Tensor | None:
    """[V, …, parts * c] with V at ``dim``, or [… , parts * c] for every v, to [… , parts * V * c]."""
    if tensor is None:
        return None
    tensor = _with_v_first(tensor, dim, V)
    return tensor.unflatten(-1, (parts, tensor.shape[-1] // parts)).movedim(0, -2).flatten(-3)


def _from_channels(tensor: Tensor, V: int, parts: int) -> Tensor:
    return tensor.unflatten(-1, (parts, V, tensor.shape[-1] // (parts * V))).movedim(-2, 0).flatten(-2)


def _with_v_first(tensor: Tensor, dim: int | None, V: int) -> Tensor:
    return tensor.expand(V, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
