"""Where the CPU kernels' time goes, forward, then forward and backward.

`python tools/cpu_kernels/profile_cpu.py sd15-32-k9` takes the shape's name.

Builds the library for this machine's instruction set with debugging information (the code is the same) in
build/profile, samples it with Linux's perf, and prints the share of each part of the kernels beside what the arithmetic
and the memory traffic of the shape would take at the rates of this machine's matrix product and copy.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from deltaconv_kernels import backends, native, pyramid
from deltaconv_kernels.testing import GPU_ONLY_SHAPES, NAMED_SHAPES, Shape, make_case, run_with_gradients

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from timing import interleaved_medians  # noqa: E402

BUILD = ROOT / "build" / "profile"
LIBRARY = BUILD / "native" / "libdeltaconv_cpu.so"
SAMPLES_PER_SECOND = 4999
SGEMM_SIZE, COPY_BYTES = 1024, 2**28
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}

# The part that an instruction belongs to: the first whose pattern one of the functions holds that it was inlined into.
PARTS = {
    "weight gradient: products": r"\baccumulate_|\badd_slopes\b",
    "weight gradient: transformations": r"\bWeightGradient<",
    "filters read and transformed": r"\bpack_weights\b|\bpack_bias\b",
    "output transformation": r"\btransform_outputs\b",
    "products": r"\bconvolve_|\bsum_|\badd_chunks\b|\badd_row\b",
    "x read, pooled, transformed": r"\bConvolution<.*>::(read_|put)",
    "gradient read, gate's slopes, transformed": r"\bBackwardStage<",
    "gradient of x written": r"\bBackward<",
    "gate, upsampling, result written": r"\bForward<",
    "partial weight gradients summed": r"\breduce\b",
    "the kernels' remaining code": r"",
}
ELSEWHERE = "elsewhere: Python, torch, the system"


def tool(name: str, why: str) -> str:
    path = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if path is None:
        raise SystemExit(f"{name}: not found; it is needed {why}")
    return path


def checked(*command: object) -> str:
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}:\n{result.stdout}{result.stderr}")
    return result.stdout


def build(instruction_set: str) -> None:
    cmake, ninja = tool("cmake", "to build the library"), tool("ninja", "to build the library")
    knobs = {
        "CMAKE_MAKE_PROGRAM": ninja,
        "CMAKE_CXX_FLAGS": "-g",
        "Python_EXECUTABLE": sys.executable,
        "DELTACONV_CUDA": "off",
        "DELTACONV_CPU_ISAS": instruction_set,
    }
    checked(cmake, "-S", ROOT, "-B", BUILD, "-G", "Ninja", *(f"-D{name}={value}" for name, value in knobs.items()))
    checked(cmake, "--build", BUILD)


def widest_instruction_set() -> str:
    """Asked in another process: this one must not have loaded the installed library."""
    code = "import torch, deltaconv_kernels as dk; dk.backends(); print(torch.ops.deltaconv.cpu_isa())"
    return checked(sys.executable, "-c", code).strip()


def check_event(event: str) -> None:
    counted = subprocess.run(
        [tool("perf", "to take samples"), "stat", "-e", event, "true"], capture_output=True, text=True
    )
    if counted.returncode != 0 or "<not supported>" in counted.stderr:
        raise SystemExit(
            f"--event: perf cannot count {event!r} on this machine (a virtual one mostly has no hardware counters); "
            "the default, cpu-clock, samples by time"
        )


def sample(function: Callable[[], object], event: str, seconds: float) -> list[tuple[int, str]]:
    """Address and file of the code that this process was found in, over and over, while it ran ``function``."""
    perf = tool("perf", "to take samples")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        options = ["-e", event, "-F", str(SAMPLES_PER_SECOND), "-o", data, "-p", str(os.getpid())]
        recorder = subprocess.Popen(
            [perf, "record", *options, "--", "sleep", str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        while recorder.poll() is None:
            function()
        said, _ = recorder.communicate()
        if recorder.returncode != 0:
            raise SystemExit(f"perf record: {said.decode().strip()}")
        lines = checked(perf, "script", "-i", data, "-F", "ip,dso").splitlines()
    found = (re.match(r"\s*([0-9a-f]+) \((.*)\)", line) for line in lines)
    return [(int(match[1], 16), match[2]) for match in found if match]


def load_address(library: Path) -> int:
    """Where this process has the library in memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return min(int(line.split("-")[0], 16) for line in lines if line.endswith(str(library)))


def functions_at(addresses: list[int]) -> dict[int, str]:
    """By address in the library: the function it lies in and those that were inlined there, in one text."""
    start = load_address(LIBRARY)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as asked:
        asked.write("\n".join(hex(address - start) for address in addresses))
        asked.flush()
        said = checked(tool("addr2line", "to name functions (binutils)"), "-afiCe", LIBRARY, f"@{asked.name}")
    answers = re.split(r"^0x[0-9a-f]+\n", said, flags=re.MULTILINE)[1:]
    return dict(zip(addresses, answers, strict=True))


def shares(samples: list[tuple[int, str]]) -> dict[str, float]:
    inside = Counter(address for address, file in samples if file == str(LIBRARY))
    counts = Counter({ELSEWHERE: len(samples) - inside.total()})
    for address, functions in functions_at(list(inside)).items():
        part = next(part for part, pattern in PARTS.items() if re.search(pattern, functions))
        counts[part] += inside[address]
    return {part: count / len(samples) for part, count in counts.items()}


def measure_rates() -> tuple[float, float]:
    """FLOP/s of a float32 matrix product and bytes/s, read and written, of a copy beyond the caches."""
    a, b = torch.randn(SGEMM_SIZE, SGEMM_SIZE), torch.randn(SGEMM_SIZE, SGEMM_SIZE)
    source, target = torch.ones(COPY_BYTES // 4), torch.empty(COPY_BYTES // 4)
    seconds = interleaved_medians({"sgemm": lambda: a @ b}, seconds=1)
    seconds |= interleaved_medians({"copy": lambda: target.copy_(source)}, seconds=1)
    return 2 * SGEMM_SIZE**3 / seconds["sgemm"], 2 * COPY_BYTES / seconds["copy"]


def profile(shape: Shape, dtype: torch.dtype, training: bool, event: str, seconds: float) -> None:
    case = make_case(shape, dtype)
    function = (
        partial(run_with_gradients, pyramid, case) if training else torch.no_grad()(partial(pyramid, *case.arguments))
    )
    arithmetic, traffic = measure_rates()
    milliseconds = 1e3 * interleaved_medians({"ours": function})["ours"]
    # Forward and backward: the forward pass, the convolutions that backward repeats, and two gradients.
    flops, moved = (4 if training else 1) * shape.flops, shape.bytes(dtype, training)
    print(f"\n{'forward and backward' if training else 'forward'}, {shape}, {str(dtype).removeprefix('torch.')}")
    for part, share in sorted(shares(sample(function, event, seconds)).items(), key=lambda item: -item[1]):
        print(f"  {share:6.1%}  {share * milliseconds:8.3f} ms  {part}")
    print(f"  100.0%  {milliseconds:8.3f} ms  median of a call")
    sgemm, copy = f"sgemm's {arithmetic / 1e9:.0f} GFLOP/s", f"a copy's {traffic / 1e9:.1f} GB/s"
    print(f"          {1e3 * flops / arithmetic:8.3f} ms  the direct method's FLOPs at {sgemm}")
    print(f"          {1e3 * moved / traffic:8.3f} ms  the tensors' bytes at {copy}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=[name for name in NAMED_SHAPES if name not in GPU_ONLY_SHAPES])
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--seconds", type=float, default=4, help="of sampling, for each pass")
    parser.add_argument(
        "--event", default="cpu-clock", help="what perf samples by; cpu-clock needs no hardware counters"
    )
    options = parser.parse_args()
    check_event(options.event)
    instruction_set = widest_instruction_set()
    build(instruction_set)
    native.DIRECTORY = LIBRARY.parent
    if (reason := backends()["cpu"].reason) is not None:
        raise SystemExit(reason)
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"{instruction_set}, {torch.get_num_threads()} threads, sampled by {options.event}")
    for training in (False, True):
        profile(NAMED_SHAPES[options.shape], DTYPES[options.dtype], training, options.event, options.seconds)


if __name__ == "__main__":
    main()
