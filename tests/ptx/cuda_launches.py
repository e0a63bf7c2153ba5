"""The operator and the block by the PTX of the CUDA kernels, planned and launched by the host build's launch code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from host_block import BlockRun, block_plan, grids_of, pyramid_problem
from host_build import device, plan_problem
from host_build import module as host_build
from nvcc_ptx import entry_of, module, storage_of
from ptx_executor import Counts, Memory, Module, launch

from deltaconv_kernels.block_arguments import BlockArguments
from deltaconv_kernels.reference import GATES
from deltaconv_kernels.testing import Case

FIRST_THAT_WAITS = 90  # compute capability from which a launch may begin while the one before it ends


@dataclass
class Executed:
    """One launch that was run, or left out: then it has no counts."""

    kernel: str  # its type
    entry: str
    blocks: int
    threads: int
    shared_bytes: int
    follows: bool  # another launch of the same call, which may still run
    counts: Counts | None


@dataclass
class Executor:
    """Runs what the launch code launches. `order` is a seed; `change` may put another module in a module's place;
    `only_blocks` may choose some of a launch's blocks, or none, by how many there are and how many launches there were.
    """

    compute_capability: int = 90
    order: int = 0
    gpu: object = None  # the plan's; an H100
    path: str | None = None
    weight_columns: int | None = None
    cta: tuple[int, int, int] | None = None  # rows, columns and threads of CTAs on tensor cores
    reduced_tile: tuple[int, int] | None = None  # of reduced stages in the launch through the gate; None: that of cta
    change: Callable[[Module, str], Module] | None = None
    only_blocks: Callable[[int, int], list[int]] | None = None
    memory: Memory = field(default_factory=Memory)
    executed: list[Executed] = field(default_factory=list)

    def launch(self, source, kernel, arguments_type, blocks, threads, shared_bytes, follows, arguments) -> None:
        ptx_module: Module = module(source.split("csrc/cuda/")[-1], storage_of(kernel), self.compute_capability)
        entry = entry_of(ptx_module, kernel, arguments_type)
        if self.change:
            ptx_module = self.change(ptx_module, entry)
        chosen = self.only_blocks(blocks, len(self.executed)) if self.only_blocks else None
        counts = None
        if chosen != []:
            counts = launch(
                ptx_module,
                entry,
                (blocks, 1, 1),
                (threads, 1, 1),
                arguments,
                shared_bytes,
                self.memory,
                order=self.order,
                only_blocks=chosen,
                follows=follows and self.compute_capability >= FIRST_THAT_WAITS,
            )
        self.executed.append(Executed(kernel, entry, blocks, threads, shared_bytes, follows, counts))

    @contextmanager
    def installed(self) -> Iterator[None]:
        host_build().set_launcher(self.launch)
        try:
            yield
        finally:
            host_build().set_launcher(None)

    def output(self, shape, dtype: torch.dtype) -> torch.Tensor:
        """NaN everywhere; zeros that take no memory if only some blocks run, for the whole may be huge."""
        return torch.full(shape, torch.nan, dtype=dtype) if self.only_blocks is None else untouched_zeros(shape, dtype)

    def read(self, tensor: torch.Tensor | None, name: str) -> int:
        """The address of an input; 0 without one."""
        if tensor is None:
            return 0
        return self.memory.allocate(tensor, name, writable=False, misaligned=tensor.data_ptr() % 16)

    def written(self, tensor: torch.Tensor | None, name: str) -> int:
        """The address of an output or a workspace, whose values nothing may read before they are written: but if only
        some blocks run, which leave most of it unwritten to the next launch.
        """
        if tensor is None:
            return 0
        return self.memory.allocate(
            tensor, name, initialised=self.only_blocks is not None, misaligned=tensor.data_ptr() % 16
        )


def untouched_zeros(shape, dtype: torch.dtype) -> torch.Tensor:
    """Zeros whose pages take memory when they are first touched."""
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(tuple(shape))


def _image(tensor, address):
    return host_build().Image(address, *tensor.stride()[:3]) if tensor is not None else host_build().Image()


def _plan_problem(case: Case, executor: Executor):
    options = (executor.path, executor.weight_columns, executor.cta, executor.reduced_tile)
    return plan_problem(case.x.shape, case.factors, case.weight.shape[1], case.x.dtype, *options)


def _problem(case: Case, executor: Executor):
    x = _image(case.x, executor.read(case.x, "x"))
    weight, bias = executor.read(case.weight, "weight"), executor.read(case.bias, "bias")
    gpu = executor.gpu or device("h100")
    gate = GATES.index(case.gate)
    return host_build().Problem(_plan_problem(case, executor), gpu, gate, case.gate_scale, x, weight, bias)


def block(arguments: BlockArguments, executor: Executor) -> BlockRun:
    """What each of the block's launches writes."""
    gpu, x = executor.gpu or device("h100"), arguments.x
    plan = block_plan(arguments, gpu, executor.cta)
    hidden = executor.output((plan.hidden,), x.dtype)
    local = executor.output((*x.shape[:3], arguments.out_weight.shape[1]), x.dtype)
    result = executor.output(x.shape, x.dtype)
    workspace = executor.output((plan.sums + plan.shifts,), torch.float32)
    inputs = ("x", "residual", "in_weight", "in_bias", "out_weight", "out_bias", "pool_weight", "pool_bias")
    addresses = {name: executor.read(getattr(arguments, name), name) for name in inputs}
    outputs = {"hidden": hidden, "local": local, "result": result, "workspace": workspace}
    addresses |= {name: executor.written(tensor, name) for name, tensor in outputs.items()}
    pyramid = host_build().Problem(
        pyramid_problem(arguments, executor.cta),
        gpu,
        GATES.index(arguments.gate),
        arguments.gate_scale,
        host_build().Image(),
        executor.read(arguments.weight, "weight"),
        executor.read(arguments.bias, "bias"),
    )
    with executor.installed():
        host_build().block(pyramid, x.shape[-1], host_build().BlockTensors(**addresses))
    sums, shifts = workspace.split([plan.sums, plan.shifts])
    dim = x.shape[-1]
    return BlockRun(
        *grids_of(plan, hidden, arguments), local, sums.view(len(x), -1, dim), shifts.view(-1, len(x), dim), result
    )


def forward(case: Case, executor: Executor) -> torch.Tensor:
    """The result of the operator."""
    result = executor.output((*case.x.shape[:3], len(case.factors) * (case.x.shape[3] // 2)), case.x.dtype)
    problem = _problem(case, executor)
    residual = _image(case.residual, executor.read(case.residual, "residual"))
    with executor.installed():
        host_build().forward(problem, residual, executor.written(result, "result"))
    return result


def backward(case: Case, executor: Executor, wanted=(True, True, True)) -> dict[str, torch.Tensor]:
    """The gradients of x, weight and bias."""
    plan = host_build().backward_plan(_plan_problem(case, executor), executor.gpu or device("h100"))
    workspace = executor.output((plan.workspace_floats,), torch.float32)
    names = ("x", "weight", "bias")
    tensors = {
        name: executor.output(tensor.shape, tensor.dtype) if wants else None
        for name, wants in zip(names, wanted, strict=True)
        if (tensor := getattr(case, name)) is not None
    }
    addresses = [executor.written(tensors.get(name), f"grad_{name}") for name in names]
    gradients = host_build().Gradients(*addresses, executor.written(workspace, "workspace"))
    grad = _image(case.grad, executor.read(case.grad, "grad"))
    problem = _problem(case, executor)
    with executor.installed():
        host_build().backward(problem, grad, gradients)
    return {f"grad_{name}": tensor for name, tensor in tensors.items() if tensor is not None}
