"""The operator `deltaconv::pyramid`: schemas, shapes for tracing, autograd, autocast.

Semantics live here, arithmetic in the backends (reference.py, csrc/cpu, …), which backends.py chooses among.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad

from . import reference, validation
from .autocast_cache import cast_once
from .namespace import NAMESPACE, operators

_FORWARD = """(Tensor x, Tensor weight, Tensor? bias, int[] factors,
    str gate="scaled", float gate_scale=1.0, Tensor? residual=None) -> Tensor"""
_BACKWARD = """(Tensor grad, Tensor x, Tensor weight, Tensor? bias, int[] factors,
    str gate, float gate_scale, bool[3] output_mask) -> (Tensor, Tensor, Tensor)"""

NATIVE_BACKENDS = ("cpu", "cuda")

LIBRARY = torch.library.Library(NAMESPACE, "DEF")
LIBRARY.define("pyramid" + _FORWARD, tags=torch.Tag.pt2_compliant_tag)
LIBRARY.define("pyramid_backward" + _BACKWARD, tags=torch.Tag.pt2_compliant_tag)
for _backend in NATIVE_BACKENDS:  # implemented by csrc/<backend>, called by backends.py alone
    # The gate is its index in reference.GATES: the Stable ABI of torch 2.11 to 2.13 leaks every string argument.
    LIBRARY.define(f"pyramid_{_backend}" + _FORWARD.replace('str gate="scaled"', "int gate"))
    LIBRARY.define(f"pyramid_backward_{_backend}" + _BACKWARD.replace("str gate", "int gate"))
LIBRARY.define("cpu_isa() -> str")
LIBRARY.define("cpu_convolution_tile(int kernel_size) -> int")  # m of csrc/cpu/tiles.h, in float32
LIBRARY.define("cuda_architecture(int device) -> int")  # raises why that GPU cannot run the kernels
LIBRARY.define("cuda_plan(int[] sizes, int[] factors, int element, int[] gpu) -> str")  # see cuda_plan.py
LIBRARY.define("cuda_block_plan(int[] sizes, int[] factors, int element, int[] gpu) -> str")


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
    if goes_to_onnx():
        validation.check_arguments(x, weight, bias, factors, gate, residual)
        return reference.pyramid_forward(x, weight, bias, factors, gate, gate_scale, residual)
    try:
        return operators.pyramid(x, weight, bias, factors, gate, gate_scale, residual)
    except (AttributeError, RuntimeError, TypeError) as error:
        if isinstance(error, NotImplementedError) and _teach_dtensor():
            return pyramid(x, weight, bias, factors, gate, gate_scale, residual)
        arguments = dict(x=x, weight=weight, bias=bias, factors=factors, gate=gate, gate_scale=gate_scale)
        validation.check_types({**arguments, "residual": residual})  # in words that the schema, which refused, has not
        raise


def goes_to_onnx() -> bool:
    """Whether `torch.onnx.export` traces this call: ONNX knows PyTorch's operators alone."""
    return torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export()


# A function that torch.jit.script compiles calls the operator itself.
torch.jit._builtins._register_builtin(pyramid, f"{NAMESPACE}::pyramid")


@cache
def _dtensor_waits() -> list[bool]:
    return [torch.distributed.is_available()]


def _teach_dtensor() -> bool:
    """At the first call that meets DTensor, whose import takes a second; whether the call is worth another try."""
    first, _dtensor_waits()[0] = _dtensor_waits()[0], False
    if first:
        from . import sharding

        sharding.register()
    return first


@torch.library.register_fake(f"{NAMESPACE}::pyramid", lib=LIBRARY)
def _pyramid_fake(x, weight, bias, factors, gate="scaled", gate_scale=1.0, residual=None):
    validation.check_arguments(x, weight, bias, factors, gate, residual)
    return x.new_empty(validation.output_shape(x, factors))


@torch.library.register_fake(f"{NAMESPACE}::pyramid_backward", lib=LIBRARY)
def _pyramid_backward_fake(grad, x, weight, bias, factors, gate, gate_scale, output_mask):
    validation.check_arguments(x, weight, bias, factors, gate, None)
    validation.check_gradient(grad, x, factors)
    wants_x, wants_weight, wants_bias = output_mask
    return (
        x.new_empty(x.shape if wants_x else 0),
        weight.new_empty(weight.shape if wants_weight else 0),
        weight.new_empty(bias.shape if wants_bias and bias is not None else 0),
    )


# Autograd by hand: torch.library.register_autograd does the same at two to three times the overhead, which a small
# shape shows. The dispatcher calls these kernels once for each level of torch.func's transforms, so what they record
# belongs to one level; torch.autograd.Function would start all levels anew.
_PYRAMID = operators.pyramid.default
_PYRAMID_BACKWARD = operators.pyramid_backward.default


class _Pyramid(torch.autograd.function._SingleLevelFunction):
    @staticmethod
    def forward(ctx, keyset, x, weight, bias, factors, gate, gate_scale, residual):
        ctx.save_for_backward(x, weight, bias)
        if may_have_tangents():
            ctx.save_for_forward(x, weight, bias)
            ctx.set_materialize_grads(False)
        ctx.options = factors, gate, gate_scale
        return _run_below(_PYRAMID, keyset, x, weight, bias, factors, gate, gate_scale, residual)

    @staticmethod
    def backward(ctx, grad):
        wants_x, wants_weight, wants_bias, *_, wants_residual = ctx.needs_input_grad[1:]
        grads: tuple[Tensor | None, ...] = (None, None, None)
        if grad is not None and (wants_x or wants_weight or wants_bias):
            wanted = [wants_x, wants_weight, wants_bias]
            computed = _PYRAMID_BACKWARD(grad, *ctx.saved_tensors, *ctx.options, wanted)
            grads = tuple(g if wants else None for g, wants in zip(computed, wanted, strict=True))
        return None, *grads, None, None, None, grad if wants_residual else None

    @staticmethod
    def jvp(ctx, _keyset, x, weight, bias, _factors, _gate, _gate_scale, residual):
        """Of the tangents of these, None where there is none."""
        return reference.pyramid_jvp((x, weight, bias, residual), *ctx.saved_tensors, *ctx.options)


class _PyramidBackward(torch.autograd.function._SingleLevelFunction):
    @staticmethod
    def forward(ctx, keyset, *args):
        return _run_below(_PYRAMID_BACKWARD, keyset, *args)

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(
            "deltaconv::pyramid cannot be differentiated twice: its backward has no derivative. "
            "Compute second derivatives with deltaconv_kernels.reference.pyramid_forward on plain tensors instead."
        )

    jvp = backward


def _pyramid_autograd(keyset, x, weight, bias, factors, gate="scaled", gate_scale=1.0, residual=None):
    below = keyset & torch._C._after_autograd_keyset
    if is_recorded(x, weight, bias, residual):
        return _record(_Pyramid, below, x, weight, bias, factors, gate, gate_scale, residual)
    with torch._C._AutoDispatchBelowAutograd():
        return _PYRAMID.redispatch(below, x, weight, bias, factors, gate, gate_scale, residual)


def _pyramid_backward_autograd(keyset, grad, x, weight, bias, *options):
    below = keyset & torch._C._after_autograd_keyset
    if is_recorded(grad, x, weight, bias):
        return _record(_PyramidBackward, below, grad, x, weight, bias, *options)
    with torch._C._AutoDispatchBelowAutograd():
        return _PYRAMID_BACKWARD.redispatch(below, grad, x, weight, bias, *options)


def _record(function, *args):
    if not torch._C._are_functorch_transforms_active():
        return function.apply(*args)
    with enable_single_level_autograd_function():
        return function.apply(*args)


def _run_below(operator, keyset, *args):
    if not torch._C._are_functorch_transforms_active():
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keyset, *args)
    # `apply` switched recording off for its own level; those of torch.func's transforms below record for themselves.
    with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True), torch._C._AutoDispatchBelowAutograd():
        return operator.redispatch(keyset, *args)


def is_recorded(*tensors: Tensor | None) -> bool:
    """Whether autograd records what is computed from these, or may carry tangents through it."""
    return may_have_tangents() or (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors))


def may_have_tangents() -> bool:
    """Whether a tensor may have one: forward-mode differentiation is under way, or one of torch.func's transforms."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


LIBRARY.impl("pyramid", _pyramid_autograd, "Autograd", with_keyset=True)
LIBRARY.impl("pyramid_backward", _pyramid_backward_autograd, "Autograd", with_keyset=True)


def _autocast(device_type: str, key: torch._C.DispatchKey):
    """The operator inside an autocast region: tensors are cast to the region's dtype, read at each call.

    `torch.library.register_autocast` would fix one dtype for good; the region may be bfloat16 or float16.
    """

    def cast(tensor: Tensor | None, dtype: torch.dtype, of_weight: bool = False) -> Tensor | None:
        if tensor is None or not tensor.is_floating_point() or tensor.dtype == torch.float64:
            return tensor
        if tensor.device.type != device_type:
            return tensor
        return cast_once(tensor, dtype) if of_weight else tensor.to(dtype)

    def kernel(x, weight, bias, factors, gate="scaled", gate_scale=1.0, residual=None):
        dtype = torch.get_autocast_dtype(device_type)
        x, residual = cast(x, dtype), cast(residual, dtype)
        weight, bias = cast(weight, dtype, of_weight=True), cast(bias, dtype, of_weight=True)
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
            return operators.pyramid(x, weight, bias, factors, gate, gate_scale, residual)

    return kernel


for _device, _key in (
    ("cpu", torch._C.DispatchKey.AutocastCPU),
    ("cuda", torch._C.DispatchKey.AutocastCUDA),
):
    LIBRARY.impl("pyramid", _autocast(_device, _key), _key.name)
