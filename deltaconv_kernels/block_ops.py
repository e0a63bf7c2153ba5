"""The operator `deltaconv::block`: a whole ΔConvBlock, composed of PyTorch's operators or, at inference, fused.

Composed, it is differentiable, traceable and runs wherever `deltaconv::pyramid` does. The `cuda` backend computes it
in four launches (docs/cuda/fused_block.md); fusing.py says when it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops, reference, validation
from .block_arguments import BlockArguments
from .fusing import may_be_fused, why_not_fused
from .namespace import NAMESPACE, operators

_ARGUMENTS = """(Tensor x, Tensor in_weight, Tensor? in_bias, Tensor weight, Tensor? bias,
    Tensor out_weight, Tensor? out_bias, Tensor pool_weight, Tensor? pool_bias,
    int[] factors, {gate}, float gate_scale=1.0, Tensor? residual=None) -> Tensor"""
ops.LIBRARY.define("block" + _ARGUMENTS.format(gate='str gate="scaled"'), tags=torch.Tag.pt2_compliant_tag)
ops.LIBRARY.define("block_cuda" + _ARGUMENTS.format(gate="int gate"))  # implemented by csrc/cuda

Project = Callable[[Tensor], Tensor]


def delta_block(
    x: Tensor,
    in_weight: Tensor,
    in_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    pool_weight: Tensor,
    pool_bias: Tensor | None,
    factors: Sequence[int] = (1,),
    gate: str = "scaled",
    gate_scale: float = 1.0,
    residual: Tensor | None = None,
) -> Tensor:
    """A whole ΔConvBlock as a function: out_proj(pyramid(in_proj(x))) + pool_proj(mean of x over H and W) + residual.

    Source: the ΔConvBlock of ΔConvFusion, arXiv 2504.21292, section 4.

    Args:
        x: [B, H, W, dim]; float32, bfloat16, float16, or float64 where the pyramid's backend has it.
        in_weight, in_bias: [inter, dim] and [inter] or None, as in `torch.nn.Linear`.
        weight, bias, factors, gate, gate_scale: of `pyramid`, with C = inter.
        out_weight, out_bias: [dim, S * inter / 2] and [dim] or None.
        pool_weight, pool_bias: [dim, dim] and [dim] or None.
        residual: [B, H, W, dim] or None.

    Returns:
        [B, H, W, dim] in x's dtype. Fused, everything between the in-projection, the pyramid and the result is
        float32 and rounded once; composed, every operator rounds its own result.

    Raises:
        ValueError: an argument breaks the contract above; the message names it.
    """
    block = BlockArguments(
        x,
        in_weight,
        in_bias,
        weight,
        bias,
        out_weight,
        out_bias,
        pool_weight,
        pool_bias,
        factors,
        gate,
        gate_scale,
        residual,
    )
    if ops.goes_to_onnx():
        return _checked_and_composed(*block)
    try:
        return operators.block(*block)
    except (AttributeError, RuntimeError, TypeError):
        validation.check_types(block._asdict())  # in words of its own; the schema has refused them already
        raise


torch.jit._builtins._register_builtin(delta_block, f"{NAMESPACE}::block")


def compose(
    x: Tensor,
    in_proj: Project,
    pyramid: Project,
    out_proj: Project,
    pool_proj: Project,
    residual: Tensor | None,
    is_linear: bool = True,
) -> Tensor:
    """The block from its parts, in PyTorch's operators; ``is_linear`` tells that out_proj is F.linear and no more."""
    local = pyramid(in_proj(x))
    shift = pool_proj(x.flatten(1, 2).mean(dim=1))[:, None, None]  # [B, 1, 1, dim]
    delta = out_proj(local)
    if not (is_linear and _is_unseen(delta)):
        delta = delta + shift
        return delta if residual is None else residual + delta
    # In place: on a CPU the pages of one more tensor of this size cost more than the sum.
    delta = delta.add_(shift)
    if residual is None:
        return delta
    return delta.add_(residual) if residual.dtype == delta.dtype else residual + delta  # autocast mixes types


def _is_unseen(result: Tensor) -> bool:
    """Whether nothing but its caller may hold what F.linear just returned, or be hurt where it is written to."""
    if torch.compiler.is_compiling() or type(result) is not Tensor:
        return False
    modes = torch._C._len_torch_function_stack() + torch._C._len_torch_dispatch_stack()
    return not modes and not ops.may_have_tangents()


def _composed(*arguments: Any) -> Tensor:
    block = BlockArguments(*arguments)

    def pyramid(hidden: Tensor) -> Tensor:
        return ops.pyramid(hidden, block.weight, block.bias, block.factors, block.gate, block.gate_scale)

    in_proj = partial(F.linear, weight=block.in_weight, bias=block.in_bias)
    out_proj = partial(F.linear, weight=block.out_weight, bias=block.out_bias)
    pool_proj = partial(F.linear, weight=block.pool_weight, bias=block.pool_bias)
    return compose(block.x, in_proj, pyramid, out_proj, pool_proj, block.residual)


def run_fused(block: BlockArguments) -> Tensor:
    """The four launches, for arguments that `why_not_fused` has nothing against."""
    gate: Any = reference.GATES.index(block.gate)
    return _BLOCK_CUDA(*block._replace(gate=gate))


def _run(*arguments: Any) -> Tensor:
    block = BlockArguments(*arguments)
    validation.check_block(block)
    if why_not_fused(block.x, block.inter, block.factors, block.residual) is not None:
        return _composed(*block)
    return run_fused(block)


@torch.library.register_fake(f"{NAMESPACE}::block", lib=ops.LIBRARY)
def _fake(*arguments: Any) -> Tensor:
    validation.check_block(BlockArguments(*arguments))
    return _fake_cuda(*arguments)


@torch.library.register_fake(f"{NAMESPACE}::block_cuda", lib=ops.LIBRARY)
def _fake_cuda(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


_BLOCK = operators.block.default
_BLOCK_CUDA = operators.block_cuda.default


def _checked_and_composed(*arguments: Any) -> Tensor:
    validation.check_block(BlockArguments(*arguments))
    return _composed(*arguments)


def _autograd(keyset: Any, *arguments: Any) -> Tensor:
    """Composed where gradients are recorded, and where no call of this process could be fused.

    The latter does not change, so it is decided here, which tracing passes through: Inductor sees the projections.
    """
    block = BlockArguments(*arguments)
    if ops.is_recorded(*block.tensors) or not may_be_fused(block.x.device, block.x.dtype):
        return _checked_and_composed(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return _BLOCK.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)


ops.LIBRARY.impl("block", _run, "CompositeExplicitAutograd")
ops.LIBRARY.impl("block", _autograd, "Autograd", with_keyset=True)
ops.LIBRARY.impl("block", _composed, "FuncTorchBatched")  # torch.vmap: each of PyTorch's operators has a rule
for _key in ("AutocastCPU", "AutocastCUDA"):  # each of PyTorch's operators casts as it does
    ops.LIBRARY.impl("block", _checked_and_composed, _key)
