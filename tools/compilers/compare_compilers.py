"""How fast the CPU kernels are that each of several compilers makes.

`python tools/compilers/compare_compilers.py g++-12 clang++-19 --instruction-set avx2` builds the CPU library with each,
in build/compare, and prints each one's processor time over the first one's for the named shapes, forward and backward.
They take turns on one thread, so that a busy machine disturbs all of them alike; results are compared before times.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from deltaconv_kernels import reference
from deltaconv_kernels.namespace import NAMESPACE, operators
from deltaconv_kernels.testing import ERROR_BUDGET, GPU_ONLY_SHAPES, NAMED_SHAPES, Case, make_case, relative_error

ROOT = Path(__file__).parents[2]
OPERATORS = ("pyramid_cpu", "pyramid_backward_cpu", "cpu_isa")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
PASSES = ("forward", "backward")


def build(compiler: str, namespace: str, instruction_set: str) -> Path:
    """The compiler's library, whose operators have a namespace of their own: all are loaded into one process."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = {tool: shutil.which(tool, path=path) for tool in ("cmake", "ninja", compiler)}
    missing = [tool for tool, at in found.items() if at is None]
    if missing:
        raise SystemExit(f"compare_compilers: not found: {', '.join(missing)}")
    folder = ROOT / "build" / "compare" / f"{namespace}-{Path(compiler).name}"
    knobs = {
        "CMAKE_CXX_COMPILER": found[compiler],
        "CMAKE_MAKE_PROGRAM": found["ninja"],
        "Python_EXECUTABLE": sys.executable,
        "DELTACONV_CPU_ISAS": instruction_set,
        "DELTACONV_CUDA": "off",
        "DELTACONV_NAMESPACE": namespace,
    }
    configure = [found["cmake"], "-S", ROOT, "-B", folder, "-G", "Ninja"]
    configure += [f"-D{name}={value}" for name, value in knobs.items()]
    for command in (configure, [found["cmake"], "--build", folder]):
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if result.returncode != 0:
            raise SystemExit(f"compare_compilers: {compiler}:\n{result.stdout}{result.stderr}")
    return folder / "native" / "libdeltaconv_cpu.so"


def load(library: Path, namespace: str) -> torch.library.Library:
    """Load a library beside others. The schemas of its operators live as long as what is returned."""
    schemas = torch.library.Library(namespace, "FRAGMENT")
    for name in OPERATORS:
        schemas.define(str(getattr(operators, name).default._schema).removeprefix(f"{NAMESPACE}::"))
    torch.ops.load_library(library)
    return schemas


def calls_of(namespace: str, case: Case) -> dict[str, Callable[[], Sequence[torch.Tensor]]]:
    library = getattr(torch.ops, namespace)
    gate = reference.GATES.index(case.gate)
    problem = (case.x, case.weight, case.bias, list(case.factors), gate, case.gate_scale)
    return {
        "forward": lambda: (library.pyramid_cpu(*problem, case.residual),),
        "backward": lambda: library.pyramid_backward_cpu(case.grad, *problem, [True] * 3),
    }


def processor_times(functions: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median of each one's seconds on the processor: not of the time that others had it."""
    samples: list[list[float]] = [[] for _ in functions]
    order = list(range(len(functions)))
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for index in order:
            start = time.thread_time()
            functions[index]()
            samples[index].append(time.thread_time() - start)
    return list(map(statistics.median, samples))


def compare(namespaces: Sequence[str], name: str, dtype: torch.dtype, rounds: int) -> dict[str, list[float]]:
    """Each pass's ratios over the first library, of one image of the shape."""
    case = make_case(replace(NAMED_SHAPES[name], batch=1), dtype)
    calls = [calls_of(namespace, case) for namespace in namespaces]
    ratios = {}
    for which in PASSES:
        first, *others = [call[which]() for call in calls]
        for other in others:
            for a, b in zip(first, other, strict=True):
                error = relative_error(b, a)
                assert error <= 2 * ERROR_BUDGET[dtype], f"{name}, {which}: results differ by {error:.1e}"
        times = processor_times([call[which] for call in calls], rounds)
        ratios[which] = [seconds / times[0] for seconds in times]
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("compilers", nargs="+", metavar="COMPILER")
    parser.add_argument("--instruction-set", default="avx2")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = arguments.compilers
    namespaces = [f"deltaconv_{index}" for index in range(len(names))]
    kept = []
    for compiler, namespace in zip(names, namespaces, strict=True):
        kept.append(load(build(compiler, namespace, arguments.instruction_set), namespace))
        assert getattr(torch.ops, namespace).cpu_isa() == arguments.instruction_set

    columns = [f"{which}, {name}" for which in PASSES for name in names[1:]]
    print(f"{arguments.dtype}, {arguments.instruction_set}, one thread; processor time over {names[0]}'s:\n")
    print(f"| shape | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}")
    logarithms: list[list[float]] = []
    for name in NAMED_SHAPES:
        if name in GPU_ONLY_SHAPES:
            continue
        ratios = compare(namespaces, name, DTYPES[arguments.dtype], arguments.rounds)
        row = [ratio for which in PASSES for ratio in ratios[which][1:]]
        logarithms.append(list(map(math.log, row)))
        print(f"| {name} | {' | '.join(f'{ratio:.2f}' for ratio in row)} |", flush=True)
    means = [math.exp(statistics.mean(column)) for column in zip(*logarithms, strict=True)]
    print(f"| geometric mean | {' | '.join(f'{mean:.2f}' for mean in means)} |")


if __name__ == "__main__":
    main()
