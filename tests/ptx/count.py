"""What the CUDA kernels issue and move, counted by executing their PTX: a block of each kind of every launch.

    python tests/ptx/count.py [--shapes sd15-64-k7 ...] [--dtype bfloat16] [--backward | --block] [--lines 10]

Units of a multiprocessor of sm_90 and what they take, as the plan has it (csrc/cuda/plan): four schedulers issue an
instruction a cycle each, perhaps a multiply-add of CUDA cores; an m16n8k16 product takes 1.5 cycles of the tensor
cores, one 8 deep half of it; shared memory a cycle for each wavefront; the L2 delivers a sector of 32 bytes a cycle.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "cuda"), str(ROOT / "tests" / "ptx"), str(ROOT)]

from cuda_launches import Executor, backward, block, forward, untouched_zeros  # noqa: E402
from host_block import block_plan  # noqa: E402
from host_build import device, plan_problem  # noqa: E402
from host_build import module as host_build  # noqa: E402
from ptx_executor import Counts  # noqa: E402
from sampled_blocks import Choice, Sampled, evenly, projection_blocks, pyramid_blocks  # noqa: E402

from deltaconv_kernels.block_arguments import BlockArguments  # noqa: E402
from deltaconv_kernels.testing import NAMED_SHAPES, Case, Shape  # noqa: E402

MULTIPROCESSORS, SCHEDULERS, CLOCK = 132, 4, 1.98e9  # an H200; schedulers of a multiprocessor
UNITS = ("issue", "CUDA cores", "tensor cores", "shared", "L2")  # of CUDA cores their multiply-adds


@dataclass
class Weighted:
    """Counts of a launch, each executed block standing for so many."""

    cycles: dict[str, float]  # of each unit, over all blocks and multiprocessors
    blocks: int
    kernel: str
    by_line: dict[tuple[str, str], float]  # wavefronts of conflicts, by opcode and source line


def zeros(shape: Shape, dtype: torch.dtype) -> Case:
    """Values do not matter to what is issued."""
    stages, c, k = len(shape.factors), shape.inter, shape.kernel_size
    x = untouched_zeros((shape.batch, shape.height, shape.width, c), dtype)
    grad = untouched_zeros((*x.shape[:3], stages * c // 2), dtype)
    weight, bias = torch.zeros(stages, k, k, c, dtype=dtype), torch.zeros(stages, c, dtype=dtype)
    return Case(x, weight, bias, shape.factors, "scaled", 1.0, None, grad)


def fused_block(shape: Shape, dtype: torch.dtype) -> BlockArguments:
    """The ΔConvBlock around the operator, twice as wide, with every bias and a residual."""
    case, dim = zeros(shape, dtype), 2 * shape.inter
    x = untouched_zeros((*case.x.shape[:3], dim), dtype)
    features = case.grad.shape[3]
    weights = [torch.zeros(size, dtype=dtype) for size in ((shape.inter, dim), (dim, features), (dim, dim))]
    in_bias, out_bias, pool_bias = (torch.zeros(len(weight), dtype=dtype) for weight in weights)
    return BlockArguments(
        x, weights[0], in_bias, case.weight, case.bias, weights[1], out_bias, weights[2], pool_bias,
        shape.factors, "scaled", 1.0, x,
    )  # fmt: skip


def all_of(sampled: Sampled) -> Choice:
    return lambda blocks: sampled


def cycles_of(counts: Counts) -> dict[str, float]:
    issued = Counter()
    for opcode, times in zip(counts.opcodes, counts.issued.tolist(), strict=True):
        issued[opcode] += times
    products = {opcode: times for opcode, times in issued.items() if opcode.startswith("mma.")}
    return {
        "issue": issued.total() / SCHEDULERS,
        "CUDA cores": issued["fma.rn.f32"] / SCHEDULERS,
        "tensor cores": sum(times * (1.5 if "k16" in opcode else 0.75) for opcode, times in products.items()),
        "shared": float(counts.wavefronts.sum()),
        "L2": float(counts.sectors.sum()),
    }


def conflicts_of(counts: Counts) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = Counter()
    for opcode, source, conflicts in zip(counts.opcodes, counts.sources, counts.conflicts.tolist(), strict=True):
        if conflicts:
            found[opcode, source.removeprefix(f"{ROOT}/")] += conflicts
    return found


def count(run: Callable[[Executor], object], choices: list[Choice]) -> list[Weighted]:
    """Runs `run` once for each chosen block, by a choice for each launch; without one, blocks are evenly chosen."""
    chosen: list[Sampled] = []
    grids: list[int] = []

    def choose(position: int):
        def blocks_of(blocks: int, launch: int) -> list[int]:
            if launch == len(grids):
                grids.append(blocks)
                chosen.append((choices[launch] if launch < len(choices) else evenly)(blocks))
            return list(chosen[launch])[position : position + 1]

        return blocks_of

    sums: list[Weighted] = []
    position = 0
    while position == 0 or position < max(map(len, chosen)):
        executor = Executor(gpu=device("h200"), only_blocks=choose(position))
        run(executor)
        for launch, executed in enumerate(executor.executed):
            if position == 0:
                kernel = executed.kernel.split("<")[0].split("::")[-1]
                sums.append(Weighted(dict.fromkeys(UNITS, 0.0), grids[launch], kernel, Counter()))
            if executed.counts:
                weight = list(chosen[launch].values())[position]
                for unit, cycles in cycles_of(executed.counts).items():
                    sums[launch].cycles[unit] += weight * cycles
                for line, beyond in conflicts_of(executed.counts).items():
                    sums[launch].by_line[line] += weight * beyond
        position += 1
    return sums


def count_operator(shape: Shape, dtype: torch.dtype, gradients: bool) -> list[Weighted]:
    case, gpu = zeros(shape, dtype), device("h200")
    problem = plan_problem(case.x.shape, shape.factors, shape.kernel_size, dtype)
    if gradients:
        known = [host_build().backward_plan(problem, gpu).gate]
        return count(lambda executor: backward(case, executor), [all_of(pyramid_blocks(plan)) for plan in known])
    plans = host_build().forward_plan(problem, gpu)
    return count(lambda executor: forward(case, executor), [all_of(pyramid_blocks(plan)) for plan in plans])


def count_block(shape: Shape, dtype: torch.dtype) -> list[Weighted]:
    arguments = fused_block(shape, dtype)
    plan = block_plan(arguments, device("h200"))
    across = -(-shape.width // plan.rectangle[1]) if plan.grids else 1
    choices = [
        all_of(projection_blocks(plan.into, shape.batch, across)),
        evenly,
        *(all_of(pyramid_blocks(launch)) for launch in plan.pyramid),
        all_of(projection_blocks(plan.out, shape.batch)),
    ]
    return count(lambda executor: block(arguments, executor), choices)


def row(name: str, launch: Weighted) -> str:
    per_block = [launch.cycles[unit] / launch.blocks for unit in UNITS]
    busiest = max(UNITS, key=launch.cycles.__getitem__)
    least = launch.cycles[busiest] / MULTIPROCESSORS / CLOCK * 1e6
    multiplies = "tensor cores" if launch.cycles["tensor cores"] else "CUDA cores"
    share = launch.cycles[multiplies] / launch.cycles[busiest]
    cells = [name, launch.kernel, f"{launch.blocks}", *(f"{c:,.0f}".replace(",", " ") for c in per_block), busiest]
    return "| " + " | ".join([*cells, f"{least:.1f}", f"{share:.0%} of {multiplies}"]) + " |"


COLUMNS = ["shape", "kernel", "blocks", *UNITS, "busiest", "least µs", "products at most"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=NAMED_SHAPES, default=list(NAMED_SHAPES))
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="bfloat16")
    passes = parser.add_mutually_exclusive_group()
    passes.add_argument("--backward", action="store_true", help="the backward's launches")
    passes.add_argument("--block", action="store_true", help="the launches of the whole fused block")
    parser.add_argument(
        "--lines", type=int, default=0, help="the source lines with most bank conflicts, of each launch"
    )
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    if arguments.block and dtype == torch.float32:
        parser.error("--dtype: expected float16 or bfloat16 with --block, which has no kernels of float32")
    print("| " + " | ".join(COLUMNS) + " |")
    print("| --- | --- |" + " ---: |" * (1 + len(UNITS)) + " --- | ---: | ---: |")
    for name in arguments.shapes:
        shape = NAMED_SHAPES[name]
        launches = count_block(shape, dtype) if arguments.block else count_operator(shape, dtype, arguments.backward)
        for launch in launches:
            print(row(name, launch), flush=True)
            for (opcode, source), beyond in Counter(launch.by_line).most_common(arguments.lines):
                print(f"    {beyond / launch.blocks:8.0f} wavefronts of conflicts a block: {opcode}, {source}")


if __name__ == "__main__":
    main()
