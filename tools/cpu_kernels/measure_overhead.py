"""Prints what a call of the operator costs before any arithmetic: each layer on a problem of four pixels, one thread.

The native call is what the layers of Python around it come on top of; one depthwise F.conv2d is there for comparison.
Of a whole block too: composed, and as the GPU's fused block is called, with a stand-in for its launches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F

from deltaconv_kernels import DeltaConvBlock, backends, fusing, reference, use_backend
from deltaconv_kernels.testing import Shape, make_case, run_with_gradients

ROUNDS, CALLS = 7, 500


def microseconds(function: Callable[[], object]) -> float:
    """The fastest round's time a call, on the processor's clock."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(CALLS):
            function()
        rounds.append((time.thread_time() - start) / CALLS)
    return 1e6 * min(rounds)


def print_block() -> None:
    """A block of no pixels in float16: composed, and fused with a stand-in that returns a new tensor at once."""
    library = torch.library.Library("deltaconv", "IMPL")
    library.impl("block_cuda", lambda x, *_: torch.empty_like(x), "CPU")
    block = DeltaConvBlock(16, 1, (1,), 1.0, dtype=torch.float16).requires_grad_(False)
    function = partial(block, torch.empty(0, 1, 1, 16, dtype=torch.float16))
    print(f"{'block, composed':32} {microseconds(function):6.1f} µs")
    with (
        mock.patch.object(fusing, "FUSED_ON", ("cpu",)),
        mock.patch.object(fusing, "why_not_in_use", return_value=None),
        mock.patch.object(fusing, "can_run", return_value=True),
    ):
        print(f"{'block, fused':32} {microseconds(function):6.1f} µs")


def main() -> None:
    torch.set_num_threads(1)
    if not backends()["cpu"].available:
        raise SystemExit(backends()["cpu"].reason)
    case = make_case(Shape(1, 2, 2, 4, 3, (1,)))
    operators = torch.ops.deltaconv
    gate = reference.GATES.index(case.gate)
    native = (*case.arguments[:4], gate, *case.arguments[5:])
    native_backward = (*case.backward_arguments[:5], gate, case.gate_scale, [True] * 3)
    planes = case.x.permute(0, 3, 1, 2).contiguous().requires_grad_()
    filters = case.weight[0].permute(2, 0, 1).unsqueeze(1).contiguous().requires_grad_()

    def conv2d() -> torch.Tensor:
        return F.conv2d(planes, filters, padding=1, groups=4)

    with_gradient = tuple(t.clone().requires_grad_() if isinstance(t, torch.Tensor) else t for t in case.arguments)
    layers = {
        "native forward": partial(operators.pyramid_cpu.default, *native),
        "native backward": partial(operators.pyramid_backward_cpu.default, *native_backward),
        "operator": partial(operators.pyramid, *case.arguments),
        "operator, recorded by autograd": partial(operators.pyramid, *with_gradient),
        "operator, forward and backward": partial(run_with_gradients, operators.pyramid, case),
        "F.conv2d, recorded by autograd": conv2d,
        "F.conv2d, forward and backward": lambda: torch.autograd.grad(conv2d().sum(), (planes, filters)),
    }
    with use_backend("cpu"):
        for name, function in layers.items():
            print(f"{name:32} {microseconds(function):6.1f} µs")
        print_block()
    print(f"torch {torch.__version__}")


if __name__ == "__main__":
    main()
