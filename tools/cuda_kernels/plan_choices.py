"""What the plan chooses for each named shape, in model cycles that no GPU has measured.

    python tools/cuda_kernels/plan_choices.py                      # prints the table of docs/cuda/plan.md
    python tools/cuda_kernels/plan_choices.py --before CHECKOUT    # beside what another built checkout chooses
    ... --write                                                    # puts the table into the page

What the other checkout chooses is judged by this checkout's model.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from cuda_resources import write_table

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "cuda"), str(ROOT)]

from host_build import device, plan_problem  # noqa: E402
from host_build import module as host_build  # noqa: E402

from deltaconv_kernels.testing import NAMED_SHAPES, Shape  # noqa: E402

SHOWN_GPUS = ("h200", "a100", "rtx4090")
EXPLAIN = """
import json, sys, torch
from deltaconv_kernels.cuda_plan import explain_cuda_plan
asked = json.loads(sys.argv[1])
print(json.dumps([explain_cuda_plan(x, k, factors, torch.bfloat16, gpu) for x, k, factors, gpu in asked]))
"""


@dataclass(frozen=True)
class Choice:
    """A launch: rows and columns of its tiles, threads and number of its blocks, model cycles."""

    tile: tuple[int, int]
    threads: int
    blocks: int
    cycles: float
    slowest: float  # of its blocks, alone


def choice(shape: Shape, gpu: str, cta: tuple[int, int, int] | None = None) -> Choice:
    """The forward's launch in bfloat16, by blocks of this tile and threads if they are given."""
    x = (shape.batch, shape.height, shape.width, shape.inter)
    problem = plan_problem(x, shape.factors, shape.kernel_size, torch.bfloat16, cta=cta)
    (launch,) = host_build().forward_plan(problem, device(gpu))
    tiling = launch.tilings[0]
    slowest = max(alone for alone, _ in launch.cycles.values())
    tile = (tiling.rows, tiling.cols)
    return Choice(tile, launch.threads, launch.blocks, launch.estimated_cycles, slowest)


def chosen_by(checkout: Path) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Rows, columns and threads that another checkout's plan chooses, by GPU and shape; CUDA cores' are left out."""
    keys = list(itertools.product(SHOWN_GPUS, NAMED_SHAPES))
    shapes = [(gpu, NAMED_SHAPES[name]) for gpu, name in keys]
    asked = [((s.batch, s.height, s.width, s.inter), s.kernel_size, s.factors, gpu) for gpu, s in shapes]
    command = [sys.executable, "-c", EXPLAIN, json.dumps(asked)]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    result = subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True, text=True)
    chosen = {}
    for key, plan in zip(keys, json.loads(result.stdout), strict=True):
        forward = plan.split("backward")[0]
        found = re.search(r"tensor cores: \d+ blocks of (\d+) threads.*?tiles of (\d+) x (\d+)", forward, re.DOTALL)
        if found:
            chosen[key] = (int(found[2]), int(found[3]), int(found[1]))
    return chosen


def cells(chosen: Choice | None) -> list[str]:
    if chosen is None:
        return ["–"] * 3
    tile = f"{chosen.tile[0]} × {chosen.tile[1]}"
    return [f"{tile}, {chosen.threads}", f"{chosen.blocks}", number(chosen.cycles)]


def number(cycles: float) -> str:
    return f"{cycles:,.0f}".replace(",", " ")


def table(before: Path | None) -> str:
    columns = ["GPU", "shape", *(["tile, threads before", "blocks", "model cycles"] if before else [])]
    columns += ["tile, threads", "blocks", "model cycles", "slowest block"]
    lines = ["| " + " | ".join(columns) + " |", "| --- | --- |" + " ---: |" * (len(columns) - 2)]
    earlier = chosen_by(before) if before else {}
    for gpu, (name, shape) in itertools.product(SHOWN_GPUS, NAMED_SHAPES.items()):
        row = [gpu, name]
        if before:
            cta = earlier.get((gpu, name))
            row += cells(choice(shape, gpu, cta) if cta else None)
        now = choice(shape, gpu)
        lines.append("| " + " | ".join([*row, *cells(now), number(now.slowest)]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="another checkout, built")
    parser.add_argument("--write", action="store_true", help="put the table into docs/cuda/plan.md")
    arguments = parser.parse_args()
    made = table(arguments.before)
    print(made)
    if arguments.write:
        write_table("plan_choices", made)


if __name__ == "__main__":
    main()
