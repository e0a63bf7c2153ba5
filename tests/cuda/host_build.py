"""Builds and calls the host build of the CUDA kernels: csrc/cuda compiled for the CPU, one thread block at a time."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import native_module
import torch

from deltaconv_kernels.cuda_plan import GPUS
from deltaconv_kernels.reference import GATES

ROOT = Path(__file__).parents[2]
MODULE = "deltaconv_cuda_host"
TYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def build(name: str, *options: str) -> Path:
    """Compile csrc/cuda/host into build/<name>, what changed since the last time; the folder."""
    return native_module.build(ROOT / "csrc" / "cuda" / "host", name, *options)


@cache
def module():
    """The Python module of the host build."""
    return native_module.load(build("cuda-host"), MODULE)


def device(name: str):
    """The properties of a GPU, by its name in deltaconv_kernels.cuda_plan."""
    return module().DeviceProperties(*GPUS[name])


def plan_problem(
    x_shape,
    factors,
    kernel_size: int,
    dtype: torch.dtype,
    path: str | None = None,
    weight_columns=None,
    cta=None,
    reduced_tile=None,
):
    """`path`: "cuda_cores", "tensor_cores"; `weight_columns`: of weight gradient tiles; `cta`: rows, columns and
    threads of convolutions on tensor cores; None: the plan's choice. `reduced_tile`: rows and columns of reduced
    stages' tiles in the launch through the gate; None: those of `cta`."""
    host = module()
    sizes = [*x_shape, len(factors), kernel_size]
    chosen = None if path is None else getattr(host.Path, path)
    element = getattr(host.ElementType, TYPES[dtype])
    return host.PlanProblem(sizes, list(factors), element, chosen, weight_columns, cta, reduced_tile)


class HostPyramid:
    """`deltaconv_kernels.pyramid` by the host build, as planned for one GPU; differentiable."""

    def __init__(
        self, gpu=None, path: str | None = None, weight_columns: int | None = None, cta=None, reduced_tile=None
    ):
        self.gpu = gpu or device("h100")
        self.path = path
        self.weight_columns = weight_columns
        self.cta = cta  # rows, columns and threads of convolutions on tensor cores
        self.reduced_tile = reduced_tile  # rows and columns of reduced stages' tiles in the launch through the gate

    def planned(self, x, weight, factors):
        """The problem as plans take it."""
        options = (self.path, self.weight_columns, self.cta, self.reduced_tile)
        return plan_problem(x.shape, factors, weight.shape[1], x.dtype, *options)

    def __call__(self, x, weight, bias=None, factors=(1,), gate="scaled", gate_scale=1.0, residual=None):
        return _Pyramid.apply(x, weight, bias, tuple(factors), gate, gate_scale, residual, self)


def image(tensor):
    """A [B, H, W, channels] tensor with dense channels, by address."""
    if tensor is None:
        return module().Image()
    assert tensor.stride(3) == 1 or tensor.shape[3] == 1
    return module().Image(tensor.data_ptr(), *tensor.stride()[:3])


def _address(tensor) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _problem(x, weight, bias, factors, gate, gate_scale, host: HostPyramid):
    plan = host.planned(x, weight, factors)
    return module().Problem(plan, host.gpu, GATES.index(gate), gate_scale, image(x), _address(weight), _address(bias))


class _Pyramid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, factors, gate, gate_scale, residual, host):
        ctx.save_for_backward(x, weight, bias)
        ctx.options = factors, gate, gate_scale
        ctx.host = host
        problem = _problem(x, weight, bias, factors, gate, gate_scale, host)
        result = x.new_full((*x.shape[:3], len(factors) * (x.shape[3] // 2)), torch.nan)
        module().forward(problem, image(residual), result.data_ptr())
        return result

    @staticmethod
    def backward(ctx, grad):
        x, weight, bias = ctx.saved_tensors
        grads = backward(grad, x, weight, bias, *ctx.options, ctx.needs_input_grad[:3], ctx.host)
        return *grads, None, None, None, grad if ctx.needs_input_grad[6] else None, None


def backward(grad, x, weight, bias, factors, gate, gate_scale, output_mask, host: HostPyramid):
    """Gradients of x, weight and bias, None where not wanted; outputs and workspace start as NaN."""
    problem = _problem(x, weight, bias, factors, gate, gate_scale, host)
    plan = module().backward_plan(host.planned(x, weight, factors), host.gpu)
    workspace = torch.full((plan.workspace_floats,), torch.nan)
    grads = [
        torch.full_like(t, torch.nan, memory_format=torch.contiguous_format) if wanted and t is not None else None
        for t, wanted in zip((x, weight, bias), output_mask, strict=True)
    ]
    addresses = module().Gradients(*map(_address, grads), workspace.data_ptr())
    module().backward(problem, image(grad), addresses)
    return tuple(grads)
