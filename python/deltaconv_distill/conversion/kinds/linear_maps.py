"""What an attention does to its values, whatever its weights are: the matrices that a block starts from."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class LinearMaps(NamedTuple):
    """W_v [inner, dim], W_o [dim, inner], and what the values' and the outputs' biases come to, [dim]; b_v [inner].

    All are float32 on the CPU, adapters included. Each of the `heads` has an equal part of inner.
    """

    values: Tensor
    outputs: Tensor
    bias: Tensor
    heads: int
    value_bias: Tensor


def linear_maps(attention: Any, name: str, handled: Collection[str] = ()) -> LinearMaps:
    """The maps of a self-attention of diffusers' `Attention`, or of one with the same layers.

    Args:
        attention: whose output is W_o softmax(·) W_v of its own input.
        name: of the layer, for the error.
        handled: options of `Attention` that stay outside the block, or whose effect the kind knows.

    Raises:
        ValueError: the layer's output is not linear in the values of its own input.
    """
    unfit = [option for option in ("group_norm", "spatial_norm") if getattr(attention, option, None) is not None]
    unfit += [option for option in ("residual_connection", "only_cross_attention") if getattr(attention, option, False)]
    unfit += ["kv_heads"] if getattr(attention, "inner_kv_dim", attention.inner_dim) != attention.inner_dim else []
    unfit += ["out_dim"] if attention.out_dim != attention.query_dim else []
    unfit = [option for option in unfit if option not in handled]
    if unfit:
        raise ValueError(
            f"init: 'attention' does not know what {name} does with its {', '.join(unfit)}; convert with init='random'"
        )
    values, value_bias = values_of(attention)
    outputs, output_bias = weights_of(attention.to_out[0], attention.inner_dim)
    scale = 1.0 if "residual_connection" in handled else 1 / getattr(attention, "rescale_output_factor", 1.0)
    return LinearMaps(
        values, outputs * scale, (outputs @ value_bias + output_bias) * scale, attention.heads, value_bias
    )


def values_of(attention: Any) -> tuple[Tensor, Tensor]:
    """Matrix and bias of its values, those that heads of queries share as often as they are used."""
    shared, bias = weights_of(attention.to_v, attention.query_dim)
    width, uses = attention.inner_dim // attention.heads, attention.inner_dim // len(shared)
    parts = (part.unflatten(0, (-1, width)).repeat_interleave(uses, dim=0).flatten(0, 1) for part in (shared, bias))
    values, value_bias = parts
    return values, value_bias


def weights_of(linear: nn.Module, width: int) -> tuple[Tensor, Tensor]:
    """Matrix and bias of a layer of `width` inputs; of an adapted layer, those that it acts with."""
    if type(linear) is nn.Linear:
        bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias
        return linear.weight.to("cpu", torch.float32), bias.to("cpu", torch.float32)
    some = next(parameter for parameter in linear.parameters() if parameter.is_floating_point())
    probes = torch.eye(width + 1, width, device=some.device, dtype=some.dtype)  # the last row is zero
    *columns, bias = linear(probes).to("cpu", torch.float32)
    return (torch.stack(columns) - bias).mT, bias
