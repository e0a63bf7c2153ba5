"""Fits the rates of the plan's model to what executed CTAs issue, and says how far the model is off.

    python tests/ptx/fit_rates.py            # prints the fit and the largest errors
    python tests/ptx/fit_rates.py --write    # and writes csrc/cuda/plan/rates.h

The model counts what a CTA does (csrc/cuda/plan/work.h). A rate is what one count takes: instructions of a warp, and
wavefronts of shared memory. CTAs of many tiles, kernel sizes and factors are executed, and the rates are those that
miss the counts least, in squares of the part of the CTA's total. Each rate is fitted to instructions of the source
files that it can come from.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "cuda"), str(ROOT / "tests" / "ptx"), str(ROOT)]

from count import fused_block, zeros  # noqa: E402
from cuda_launches import Executor, backward, block, forward  # noqa: E402
from host_block import block_plan  # noqa: E402
from host_build import device, plan_problem  # noqa: E402
from host_build import module as host_build  # noqa: E402

from deltaconv_kernels.block_arguments import BlockArguments  # noqa: E402
from deltaconv_kernels.testing import Shape  # noqa: E402

RATES = ROOT / "csrc" / "cuda" / "plan" / "rates.h"
WORK = ROOT / "csrc" / "cuda" / "plan" / "work.h"

# The source files of parts of a kernel, and the work that their instructions belong to. Instructions of other files,
# such as conversions, may belong to any work.
PARTS: list[tuple[set[str], set[str]]] = [
    (
        {"tensor_cores/load.h", "frame/load.h", "cuda_cores/load.h"},
        {"kWarpStart", "kFilterTap", "kPixelPair", "kHalvedPair", "kPooledPair", "kWindowStep"}
        | {"kCopiedQuad", "kWidenedQuad", "kPooledQuad", "kPooledEight", "kWindowValues"}
        | {"kStoringWarp", "kParkingWarp"},
    ),
    (
        {"tensor_cores/convolve.h", "device/mma.h", "tensor_cores/fragments.h", "cuda_cores/convolve.h"},
        {"kChannel", "kKernelRows", "kBandWord", "kSum", "kRowMet", "kStoringWarp", "kParkingWarp"},
    ),
    (
        {"frame/output.h", "frame/gate.h", "tensor_cores/forward.h", "cuda_cores/forward.h", "cuda_cores/stage.h"},
        {"kWarpStart", "kGatedValue", "kStored", "kUpsampled", "kUpsampledRun", "kGridPixel"}
        | {"kStoringWarp", "kParkingWarp", "kInterpolated", "kInterpolatedGrid"},
    ),
]
ELSEWHERE = len(PARTS)

# What one PTX instruction is, by definition: its part, instructions and wavefronts.
KNOWN = {
    "kFragment": (1, (1, 4)),
    "kProduct": (1, (1, 0)),
    "kRead": (1, (1, 1)),
    "kMultiplyAdd": (ELSEWHERE, (1, 0)),
}


@dataclass
class Counted:
    """An executed CTA."""

    name: str
    work: np.ndarray  # counts in the order of the enumeration Work
    instructions: np.ndarray  # by part, with ELSEWHERE last
    wavefronts: np.ndarray


def works() -> list[str]:
    """The names of the enumeration Work."""
    body = WORK.read_text().split("enum Work : int {")[1].split("};")[0]
    return [name for name in re.findall(r"^  (k[A-Z]\w+)", body, re.MULTILINE) if name != "kWorks"]


def part_of(source: str) -> int:
    file = source.rsplit(":", 1)[0]
    return next((i for i, (files, _) in enumerate(PARTS) if any(file.endswith(f) for f in files)), ELSEWHERE)


def middle_tile(plan, stage: int) -> int:
    """The index of a CTA of the stage whose tile has others on all sides, if any has."""
    tiles = host_build().located_tiles(plan)
    rows, cols = (1 + max(tile[i] for tile in tiles if tile[0] == stage) for i in (2, 3))
    return next(t[-1] for t in tiles if t[0] == stage and (t[2], t[3]) == (rows // 2, cols // 2))


@dataclass(frozen=True)
class Sample:
    """A problem whose CTAs are executed, on CUDA cores without a `cta`."""

    run: str  # "forward", the pyramid of a fused "block", or "backward"
    side: int  # of a stage's grid
    kernel_size: int
    factor: int
    dtype: torch.dtype
    cta: tuple[int, int, int] | None = None

    def execute(self) -> Iterator[Counted]:
        """A CTA of each launch that the model knows."""
        factors = (1, self.factor) if self.run == "backward" else (self.factor,)
        side = self.side * self.factor
        shape, gpu = Shape(1, side, side, 32, self.kernel_size, factors), device("h200")
        path = "tensor_cores" if self.cta else "cuda_cores"
        case, arguments = zeros(shape, self.dtype), fused_block(shape, self.dtype)
        problem = plan_problem(case.x.shape, factors, self.kernel_size, self.dtype, path, cta=self.cta)
        launches = self.launches(problem, arguments)
        ctas = {
            number: middle_tile(plan, 0 if name == "input" else len(factors) - 1)
            for number, (name, plan) in launches.items()
        }
        executor = Executor(
            gpu=gpu, path=path, cta=self.cta, only_blocks=lambda _, launch: [ctas[launch]] if launch in ctas else []
        )
        if self.run == "block":
            block(arguments, executor)
        else:
            (backward if self.run == "backward" else forward)(case, executor)
        for number, (name, plan) in launches.items():
            stage = 0 if name == "input" else len(factors) - 1
            counts = executor.executed[number].counts
            parts = np.array([part_of(source) for source in counts.sources])
            by_part = [parts == part for part in range(ELSEWHERE + 1)]
            yield Counted(
                f"{name} K={self.kernel_size} factor {self.factor} {self.dtype} {self.cta or 'CUDA cores'}",
                np.array(host_build().launch_work(problem, plan, name)[stage][:-1]),
                np.array([counts.issued[chosen].sum() for chosen in by_part], float),
                np.array([counts.wavefronts[chosen].sum() for chosen in by_part], float),
            )

    def launches(self, problem, arguments: BlockArguments) -> dict[int, tuple[str, object]]:
        """Name and plan of launches that the model knows, by their place among all launches of the run."""
        gpu = device("h200")
        if self.run == "forward":
            return {0: ("forward", host_build().forward_plan(problem, gpu)[0])}
        if self.run == "block":
            return {2: ("pyramid", block_plan(arguments, gpu, self.cta).pyramid[0])}
        plan = host_build().backward_plan(problem, gpu)
        return {i: (name, getattr(plan, name)) for i, name in enumerate(("gate", "reduced", "input"))}


def samples() -> Iterator[Sample]:
    """Tiles inside a larger grid, and tiles that are the whole grid, on both paths."""
    half, single = torch.bfloat16, torch.float32
    tiles = [(16, 16), (32, 16), (32, 32)]
    for tile, threads, k, factor in itertools.product(tiles, (256, 512), (7, 9, 11, 13, 17, 21), (1, 2, 3, 4)):
        if tile == (32, 32) and k > 17:
            continue
        cta = (*tile, threads)
        yield Sample("forward", 32, k, factor, half, cta)
        if factor < 4:
            yield Sample("forward", 96, k, factor, half, cta)
        if factor < 4 and k in (7, 9, 13, 21):
            yield Sample("backward", 96, k, factor, half, cta)
        if factor != 3:  # the in-projection pools by powers of two
            yield Sample("block", 32, k, factor, half, cta)
            if factor < 4:
                yield Sample("block", 96, k, factor, half, cta)
    for dtype, k, factor in itertools.product((half, single), (1, 3, 5, 7, 9, 13, 15, 17, 31), (1, 2, 3)):
        for side in (8, 32, 96):
            yield Sample("forward", side, k, factor, dtype)


def least_squares(counts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Non-negative coefficients: those that would be negative are dropped, the most negative first."""
    kept = [i for i in range(counts.shape[1]) if counts[:, i].any()]
    while kept:
        found = np.linalg.lstsq(counts[:, kept], wanted, rcond=None)[0]
        if (found >= 0).all():
            break
        del kept[int(np.argmin(found * np.abs(counts[:, kept]).max(axis=0)))]
    coefficients = np.zeros(counts.shape[1])
    if kept:
        coefficients[kept] = found
    return coefficients


def fit(ctas: list[Counted], names: list[str], unit: int) -> np.ndarray:
    """Rates of all works. `unit`: 0 for instructions, 1 for wavefronts."""
    rates = np.zeros(len(names))
    totals = np.array([(cta.instructions if unit == 0 else cta.wavefronts).sum() for cta in ctas])
    work = np.array([cta.work for cta in ctas]) / totals[:, None]
    for part in range(ELSEWHERE + 1):
        by_part = np.array([(cta.instructions if unit == 0 else cta.wavefronts)[part] for cta in ctas]) / totals
        allowed = set(names) if part == ELSEWHERE else PARTS[part][1]
        for name, (in_part, of_one) in KNOWN.items():
            if in_part == part:
                by_part = by_part - work[:, names.index(name)] * of_one[unit]
                rates[names.index(name)] = of_one[unit]
        free = [i for i, name in enumerate(names) if name in allowed - KNOWN.keys()]
        rates[free] += least_squares(work[:, free], by_part)
    return rates


def errors(ctas: list[Counted], rates: np.ndarray, unit: int) -> list[tuple[float, str]]:
    """What the model is off, as a part of what was counted; the largest first."""
    totals = [(cta.instructions if unit == 0 else cta.wavefronts).sum() for cta in ctas]
    off = [(float(cta.work @ rates / total - 1), cta.name) for cta, total in zip(ctas, totals, strict=True)]
    return sorted(off, key=lambda error: -abs(error[0]))


def write(names: list[str], rates: list[np.ndarray]) -> None:
    numbers = [f"    {{{a:.4g}, {b:.4g}}}," for a, b in zip(*np.round(rates, 6), strict=True)]
    column = max(map(len, numbers)) + 2  # where clang-format puts the comments
    rows = [f"{of_work:{column}}// {name}" for of_work, name in zip(numbers, names, strict=True)]
    text = RATES.read_text()
    begin, end = text.index("= {\n") + 4, text.index("};")
    RATES.write_text(text[:begin] + "\n".join(rows) + "\n" + text[end:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write csrc/cuda/plan/rates.h")
    arguments = parser.parse_args()
    names = works()
    ctas = [cta for sample in samples() for cta in sample.execute()]
    rates = [fit(ctas, names, unit) for unit in (0, 1)]
    for name, *of_work in zip(names, *rates, strict=True):
        print(f"{name:20} {of_work[0]:9.2f} instructions {of_work[1]:8.2f} wavefronts")
    for unit, what in enumerate(("instructions", "wavefronts")):
        off = errors(ctas, rates[unit], unit)
        mean = np.sqrt(np.mean([error**2 for error, _ in off]))
        print(f"{what} of {len(ctas)} CTAs: root mean square error {mean:.1%}; the largest errors are")
        for error, name in off[:8]:
            print(f"    {error:+.1%}  {name}")
    if arguments.write:
        write(names, rates)


if __name__ == "__main__":
    main()
