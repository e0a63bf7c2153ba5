"""The operator `deltaconv::pyramid`: schemas, shapes for tracing, autograd, autocast.

Semantics live here, arithmetic in the backends (reference.py, csrc/cpu, …), which backends.py chooses among.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import validation

_FORWARD = """(Tensor x, Tensor weight, Tensor? bias, int[] factors,
    str gate="scaled", float gate_scale=1.0, Tensor? residual=None) -> Tensor"""
_BACKWARD = """(Tensor grad, Tensor x, Tensor weight, Tensor? bias, int[] factors,
    str gate, float gate_scale, bool[3] output_mask) -> (Tensor, Tensor, Tensor)"""

NATIVE_BACKENDS = ("cpu", "cuda")

LIBRARY = torch.library.Library("deltaconv", "DEF")
LIBRARY.define("pyramid" + _FORWARD, tags=torch.Tag.pt2_compliant_tag)
LIBRARY.define("pyramid_backward" + _BACKWARD, tags=torch.Tag.pt2_compliant_tag)
for _backend in NATIVE_BACKENDS:  # implemented by csrc/<backend>, called by backends.py alone
    # The gate is its index in reference.GATES: the Stable ABI of torch 2.11 to 2.13 leaks every string argument.
    LIBRARY.define(f"pyramid_{_backend}" + _FORWARD.replace('str gate="scaled"', "int gate"))
    LIBRARY.define(f"pyramid_backward_{_backend}" + _BACKWARD.replace("str gate", "int gate"))
LIBRARY.define("cpu_isa() -> str")


def pyramid(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    factors: Sequence[int] = (1,),
    gate: str = "scaled",
    gate_scale: float = 1.0,
    residual: Tensor | None = None,
) -> Tensor:
    """Multi-scale gated depthwise convolution with an optional residual, in one pass.

    For each stage i with f = factors[i]: average-pool x to (H // f, W // f), convolve each channel with
    its own K x K filter (zero padding K // 2) and add the bias, gate channel c by channel c + C/2, upsample
    bilinearly (align_corners=False) to (H, W). The stages are concatenated along the channels.
    Source: the ΔConvBlock of ΔConvFusion, arXiv 2504.21292, section 4.

    Args:
        x: [B, H, W, C], C even; float32, bfloat16, float16, or float64 (CPU and reference backends only).
        weight: [S, K, K, C], one filter per stage and channel; K odd, 1 to 31. Same dtype and device as x.
        bias: [S, C] or None.
        factors: S reduction factors, each from 1 (full resolution) to min(H, W).
        gate: "scaled": u * (gate_scale * v); "sigmoid": u * sigmoid(gate_scale * v).
        gate_scale: dimensionless factor on the gate v; the paper uses sqrt(C / 2) with "scaled".
        residual: [B, H, W, S*C/2] or None; added to the result.

    Returns:
        [B, H, W, S*C/2] in x's dtype, contiguous. Sums are accumulated in float32 (float64 for float64).

    Raises:
        ValueError: an argument breaks the contract above; the message names it.
        RuntimeError: an explicitly chosen backend cannot run this input (see `use_backend`), or the result
            is differentiated twice.
    """
    return torch.ops.deltaconv.pyramid(x, weight, bias, factors, gate, gate_scale, residual)


@torch.library.register_fake("deltaconv::pyramid", lib=LIBRARY)
def _pyramid_fake(x, weight, bias, factors, gate="scaled", gate_scale=1.0, residual=None):
    validation.check_arguments(x, weight, bias, factors, gate, residual)
    return x.new_empty(validation.output_shape(x, factors))


@torch.library.register_fake("deltaconv::pyramid_backward", lib=LIBRARY)
def _pyramid_backward_fake(grad, x, weight, bias, factors, gate, gate_scale, output_mask):
    validation.check_arguments(x, weight, bias, factors, gate, None)
    validation.check_gradient(grad, x, factors)
    wants_x, wants_weight, wants_bias = output_mask
    return (
        x.new_empty(x.shape if wants_x else 0),
        weight.new_empty(weight.shape if wants_weight else 0),
        weight.new_empty(bias.shape if wants_bias and bias is not None else 0),
    )


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, weight, bias, ctx.factors, ctx.gate, ctx.gate_scale, _ = inputs
    ctx.save_for_backward(x, weight, bias)


def _backward(ctx: Any, grad: Tensor) -> tuple:
    x, weight, bias = ctx.saved_tensors
    wants = list(ctx.needs_input_grad[:3])
    grads: tuple[Tensor | None, ...] = (None, None, None)
    if any(wants):
        grads = torch.ops.deltaconv.pyramid_backward(
            grad, x, weight, bias, ctx.factors, ctx.gate, ctx.gate_scale, wants
        )
    grads = tuple(g if wanted else None for g, wanted in zip(grads, wants, strict=True))
    wants_residual = any(ctx.needs_input_grad[6:])  # torch drops trailing arguments left at their default
    return *grads, None, None, None, grad if wants_residual else None


def _double_backward(ctx: Any, *grads: Tensor) -> tuple:
    raise RuntimeError(
        "deltaconv::pyramid cannot be differentiated twice: its backward has no derivative. "
        "Compute second derivatives with deltaconv_kernels.reference.pyramid_forward on plain tensors instead."
    )


torch.library.register_autograd("deltaconv::pyramid", _backward, setup_context=_setup_context, lib=LIBRARY)
torch.library.register_autograd("deltaconv::pyramid_backward", _double_backward, lib=LIBRARY)


def _autocast(device_type: str, key: torch._C.DispatchKey):
    """The operator inside an autocast region: tensors are cast to the region's dtype, read at each call.

    `torch.library.register_autocast` would fix one dtype for good; the region may be bfloat16 or float16.
    """

    def cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        if tensor is None or not tensor.is_floating_point() or tensor.dtype == torch.float64:
            return tensor
        return tensor.to(dtype) if tensor.device.type == device_type else tensor

    def kernel(x, weight, bias, factors, gate="scaled", gate_scale=1.0, residual=None):
        dtype = torch.get_autocast_dtype(device_type)
        x, weight, bias, residual = (cast(t, dtype) for t in (x, weight, bias, residual))
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
            return torch.ops.deltaconv.pyramid(x, weight, bias, factors, gate, gate_scale, residual)

    return kernel


for _device, _key in (
    ("cpu", torch._C.DispatchKey.AutocastCPU),
    ("cuda", torch._C.DispatchKey.AutocastCUDA),
):
    LIBRARY.impl("pyramid", _autocast(_device, _key), _key.name)
