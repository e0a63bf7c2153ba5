"""What the CUDA kernels issue and move, counted by executing their PTX: a block of each kind of every launch.

    python tests/ptx/count.py [--shapes sd15-64-k7 ...] [--dtype bfloat16] [--backward] [--lines 10]

Units of a multiprocessor of sm_90 and what they take, as the plan has it (csrc/cuda/plan): four schedulers issue an
instruction a cycle each; an m16n8k16 product takes 1.5 cycles of the tensor cores, one 8 deep half of it; shared memory
a cycle for each wavefront; the L2 delivers a sector of 32 bytes a cycle.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "cuda"), str(ROOT / "tests" / "ptx"), str(ROOT)]

from cuda_launches import Executor, backward, forward  # noqa: E402
from host_build import device, plan_problem  # noqa: E402
from host_build import module as host_build  # noqa: E402
from ptx_executor import Counts  # noqa: E402

from deltaconv_kernels.testing import NAMED_SHAPES, Case, Shape  # noqa: E402

MULTIPROCESSORS, CLOCK = 132, 1.98e9  # an H200
SAMPLE = 12  # blocks of a launch whose tiles are not known here
UNITS = ("issue", "tensor", "shared", "L2")


@dataclass
class Weighted:
    """Counts of a launch, each executed block standing for so many."""

    cycles: dict[str, float]  # of each unit, over all blocks and multiprocessors
    blocks: int
    kernel: str
    by_line: dict[tuple[str, str], float]  # wavefronts beyond the least, by opcode and source line


def zeros(shape: Shape, dtype: torch.dtype) -> Case:
    """Values do not matter to what is issued."""
    stages, c, k = len(shape.factors), shape.inter, shape.kernel_size
    x = torch.zeros(shape.batch, shape.height, shape.width, c, dtype=dtype)
    grad = torch.zeros(*x.shape[:3], stages * c // 2, dtype=dtype)
    weight, bias = torch.zeros(stages, k, k, c, dtype=dtype), torch.zeros(stages, c, dtype=dtype)
    return Case(x, weight, bias, shape.factors, "scaled", 1.0, None, grad)


def kinds_of_blocks(plan) -> dict[int, int]:
    """A block of each kind, and how many are of it: by stage and by whether a tile is at an edge of the image."""
    tiles = host_build().located_tiles(plan)
    last = {stage: tuple(map(max, zip(*(t[2:] for t in tiles if t[0] == stage), strict=True))) for stage, *_ in tiles}
    kinds = defaultdict(list)
    for index, (stage, _, *position) in enumerate(tiles):
        ends = tuple((at == 0, at == most) for at, most in zip(position, last[stage], strict=True))
        kinds[stage, ends].append(index)
    return {members[len(members) // 2]: len(members) for members in kinds.values()}


def evenly(blocks: int) -> dict[int, int]:
    """Blocks evenly over a launch, each standing for its share."""
    count = min(blocks, SAMPLE)
    bounds = [blocks * i // count for i in range(count + 1)]
    return {(a + b) // 2: b - a for a, b in itertools.pairwise(bounds)}


def cycles_of(counts: Counts) -> dict[str, float]:
    tensor = sum(
        issued * (1.5 if "k16" in opcode else 0.75)
        for opcode, issued in zip(counts.opcodes, counts.issued.tolist(), strict=True)
        if opcode.startswith("mma.")
    )
    return {
        "issue": float(counts.issued.sum()) / 4,
        "tensor": tensor,
        "shared": float(counts.wavefronts.sum()),
        "L2": float(counts.sectors.sum()),
    }


def least_wavefronts(opcode: str, issued: int, moved: int) -> float:
    """Without conflicts: 128 bytes each, one for an instruction at least."""
    return max(issued, moved / 128)


def conflicts_of(counts: Counts) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = Counter()
    rows = zip(
        counts.opcodes,
        counts.sources,
        counts.issued.tolist(),
        counts.wavefronts.tolist(),
        counts.bytes.tolist(),
        strict=True,
    )
    for opcode, source, issued, wavefronts, moved in rows:
        beyond = wavefronts - least_wavefronts(opcode, issued, moved)
        if beyond > 0 and wavefronts:
            found[opcode, source.removeprefix(f"{ROOT}/")] += beyond
    return found


def count(run, case: Case, plans: list) -> list[Weighted]:
    """Runs `run(case, executor)` once for each chosen block. `plans`: of the first launches; the others are sampled."""
    chosen: list[dict[int, int]] = []
    grids: list[int] = []

    def choose(position: int):
        def blocks_of(blocks: int, launch: int) -> list[int]:
            if launch == len(grids):
                grids.append(blocks)
                chosen.append(kinds_of_blocks(plans[launch]) if launch < len(plans) else evenly(blocks))
            return [list(chosen[launch])[min(position, len(chosen[launch]) - 1)]]

        return blocks_of

    sums: list[Weighted] = []
    position = 0
    while position == 0 or position < max(map(len, chosen)):
        executor = Executor(only_blocks=choose(position))
        run(case, executor)
        for launch, executed in enumerate(executor.executed):
            if position == 0:
                kernel = executed.kernel.split("<")[0].split("::")[-1]
                sums.append(Weighted(dict.fromkeys(UNITS, 0.0), grids[launch], kernel, Counter()))
            if position < len(chosen[launch]):
                weight = list(chosen[launch].values())[position]
                for unit, cycles in cycles_of(executed.counts).items():
                    sums[launch].cycles[unit] += weight * cycles
                for line, beyond in conflicts_of(executed.counts).items():
                    sums[launch].by_line[line] += weight * beyond
        position += 1
    return sums


def row(name: str, launch: Weighted) -> str:
    per_block = [launch.cycles[unit] / launch.blocks for unit in UNITS]
    busiest = max(UNITS, key=launch.cycles.__getitem__)
    least = launch.cycles[busiest] / MULTIPROCESSORS / CLOCK * 1e6
    tensor = launch.cycles["tensor"] / launch.cycles[busiest]
    cells = [name, launch.kernel, f"{launch.blocks}", *(f"{c:,.0f}".replace(",", " ") for c in per_block), busiest]
    return "| " + " | ".join([*cells, f"{least:.1f}", f"{tensor:.0%}" if tensor else "–"]) + " |"


COLUMNS = ["shape", "kernel", "blocks", "issue", "tensor", "shared", "L2", "busiest", "least µs", "tensor at most"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=NAMED_SHAPES, default=list(NAMED_SHAPES))
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="bfloat16")
    parser.add_argument("--backward", action="store_true", help="the backward's launches")
    parser.add_argument(
        "--lines", type=int, default=0, help="the source lines with most bank conflicts, of the first shape"
    )
    arguments = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |")
    print("| --- | --- |" + " ---: |" * 5 + " --- | ---: | ---: |")
    for name in arguments.shapes:
        shape, dtype = NAMED_SHAPES[name], getattr(torch, arguments.dtype)
        problem = plan_problem(
            (shape.batch, shape.height, shape.width, shape.inter), shape.factors, shape.kernel_size, dtype
        )
        run, plans = (
            (backward, [host_build().backward_plan(problem, device("h200")).gate])
            if arguments.backward
            else (forward, host_build().forward_plan(problem, device("h200")))
        )
        launches = count(run, zeros(shape, dtype), plans)
        for launch in launches:
            print(row(name, launch), flush=True)
            for (opcode, source), beyond in Counter(launch.by_line).most_common(arguments.lines):
                print(f"    {beyond / launch.blocks:8.0f} wavefronts of conflicts a block: {opcode}, {source}")


if __name__ == "__main__":
    main()
