"""Whether a block is computed in the four launches of the `cuda` backend (docs/cuda/fused_block.md), and why not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor  # what torch.export traces with
from torch.nn.modules.module import _has_any_global_hook

from .backends import can_run, why_not_in_use
from .block_arguments import BlockArguments
from .ops import goes_to_onnx, is_recorded

FUSED_ON = ("cuda",)
FUSED_DTYPES = (torch.float16, torch.bfloat16)
ALIGNMENT = 8  # channels in 16 bytes
PLAIN_TENSORS = (Tensor, nn.Parameter, FakeTensor)  # no subclass that is quantised or distributed


def why_not_fused(x: Tensor, inter: int, factors: Sequence[int], residual: Tensor | None) -> str | None:
    """None if the `cuda` backend would compute the block of these tensors in four launches, else the reason.

    What breaks the contract is not fused either: composed, it is refused by name.
    """
    if x.device.type not in FUSED_ON:
        return f"the fused block runs on {' or '.join(FUSED_ON)}, x is on {x.device.type}"
    if x.dtype not in FUSED_DTYPES:
        return f"the fused block computes in {', '.join(map(str, FUSED_DTYPES))}, x is {x.dtype}"
    if residual is not None and (residual.dtype != x.dtype or residual.shape != x.shape):
        return f"residual is {residual.dtype} of {list(residual.shape)}, not as x: {x.dtype} of {list(x.shape)}"
    _, height, width, dim = x.shape
    tracing = torch.compiler.is_compiling()  # sizes may depend on data then; the operator checks them at each call
    if not tracing and (max(factors) > height or max(factors) > width):
        return f"a factor of {tuple(factors)} is larger than the image, {height} x {width}"
    local = len(factors) * (inter // 2)
    if dim % ALIGNMENT or inter % ALIGNMENT or local % ALIGNMENT:
        return f"dim = {dim}, inter = {inter} and S * inter / 2 = {local} are not all multiples of {ALIGNMENT}"
    # The choice of a backend cannot be traced, nor is it fixed in a graph: the operator makes it at each call.
    return None if tracing else why_not_in_use("cuda", x.device, x.dtype)


def may_be_fused(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether any block on such tensors could be fused in this process."""
    return device.type in FUSED_ON and dtype in FUSED_DTYPES and can_run("cuda", device, dtype)


def why_not_now(arguments: BlockArguments, projections: Sequence[nn.Module]) -> str | None:
    """None if this call of a module, whose sizes and backend would do, can be fused, else the reason."""
    device, dtype = arguments.x.device, arguments.x.dtype
    if torch.is_autocast_enabled(device.type):
        return "autocast chooses each operator's type"
    if goes_to_onnx():
        return "ONNX has no such operator"
    if not all(map(is_plain, projections)):
        return "a projection is no plain nn.Linear: it has hooks, or was replaced"
    tensors = arguments.tensors
    if is_recorded(*tensors):
        return "gradients are recorded"
    if any(t.dtype != dtype or t.device != device or type(t) not in PLAIN_TENSORS for t in tensors):
        return f"not every tensor is a plain one of {dtype} on {device}"
    return None


def is_plain(linear: nn.Module) -> bool:
    """Whether calling it does nothing but multiply: hooks load weights, adapters replace the module or its forward."""
    hooks = linear._forward_hooks or linear._forward_pre_hooks or linear._backward_hooks or linear._backward_pre_hooks
    return type(linear) is nn.Linear and not hooks and "forward" not in vars(linear) and not _has_any_global_hook()
