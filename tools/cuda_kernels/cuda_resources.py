"""What the CUDA library's kernels ask of a GPU: registers, stack, shared memory of every variant and architecture.

`python tools/cuda_kernels/cuda_resources.py` prints the table of docs/cuda/registers.md from the library that is built;
with --write it puts the table into that page.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from deltaconv_kernels.native import DIRECTORY

LIBRARY = DIRECTORY / "libdeltaconv_cuda.so"
DOCS = Path(__file__).parents[2] / "docs" / "cuda"
PAGES = {"cuda_resources": DOCS / "registers.md", "cuda_floors": DOCS / "floors.md", "plan_choices": DOCS / "plan.md"}
END = "<!-- end -->"
TYPES = {"f": "float32", "Half": "float16", "BFloat16": "bfloat16"}


@dataclass(frozen=True)
class Kernel:
    """One kernel in machine code for one architecture."""

    architecture: int  # 90 for sm_90
    name: str
    dtype: str
    variant: tuple[int, ...]  # its compile-time sizes
    registers: int  # of a thread
    stack: int  # bytes of a thread: arrays and spilled registers
    local: int  # bytes of a thread, of local memory
    static_shared: int  # bytes of a CTA


def cuobjdump() -> str | None:
    """CUDA's disassembler: on the PATH, or the one in Triton's package."""
    triton = find_spec("triton")
    inside = Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump" if triton and triton.origin else None
    return shutil.which("cuobjdump") or (str(inside) if inside and inside.exists() else None)


def read_kernels(library: Path = LIBRARY) -> list[Kernel]:
    """Every kernel of the library, for every architecture that it holds machine code of.

    Raises:
        RuntimeError: there is no cuobjdump here.
    """
    tool = cuobjdump()
    if tool is None:
        raise RuntimeError("cuobjdump: expected on the PATH or in the package triton, found neither")
    dump = subprocess.run([tool, "--dump-resource-usage", library], capture_output=True, text=True, check=True).stdout
    kernels, architecture, name = [], 0, ""
    for line in dump.splitlines():
        if found := re.match(r"arch = sm_(\d+)", line):
            architecture = int(found[1])
        elif found := re.match(r" *Function (\w+):", line):
            name = found[1]
        elif "REG:" in line and "pyramid_kernel" in name:  # not the empty kernel of ops/availability.cu
            usage = {key: int(value) for key, value in re.findall(r"([A-Z]+):(\d+)", line)}
            kernels.append(_kernel(architecture, name, usage))
    return kernels


def _kernel(architecture: int, mangled: str, usage: dict[str, int]) -> Kernel:
    folders = "cuda_cores|tensor_cores|fused_block"
    found = re.search(rf"\d({folders})\d+([A-Z][A-Za-z]+)I(f|NS\w*?\d(?:Half|BFloat16)E)(.*?)EENS", mangled)
    if found is None:
        raise ValueError(f"the name of a kernel: expected {folders}::name<type, sizes…>, got {mangled}")
    kind = re.sub(r"^NS.*\d(Half|BFloat16)E$", r"\1", found[3])
    sizes = tuple(map(int, re.findall(r"Li(\d+)E?", found[4])))
    resources = (usage["REG"], usage["STACK"], usage["LOCAL"], usage["SHARED"])
    return Kernel(architecture, f"{found[1]}::{found[2]}", TYPES[kind], sizes, *resources)


def table(kernels: Iterable[Kernel]) -> str:
    """Most registers of a thread by kernel, storage type and architecture, in Markdown."""
    most: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    variants = defaultdict(set)
    for kernel in kernels:
        row = most[kernel.name, kernel.dtype]
        row[kernel.architecture] = max(row.get(kernel.architecture, 0), kernel.registers)
        variants[kernel.name, kernel.dtype].add(kernel.variant)
    architectures = sorted({architecture for row in most.values() for architecture in row})
    lines = ["| kernel | storage | variants | " + " | ".join(f"sm_{a}" for a in architectures) + " |"]
    lines.append("| --- | --- |" + " ---: |" * (1 + len(architectures)))
    for (name, dtype), row in sorted(most.items()):
        registers = " | ".join(str(row.get(architecture, "")) for architecture in architectures)
        lines.append(f"| `{name}` | {dtype} | {len(variants[name, dtype])} | {registers} |")
    return "\n".join(lines)


def _begin(tool: str) -> str:
    return f"<!-- tools/cuda_kernels/{tool}.py --write -->"


def documented_table(tool: str) -> str:
    """The table of tools/cuda_kernels/<tool>.py as it stands in its page."""
    return PAGES[tool].read_text().split(_begin(tool))[1].split(END)[0].strip()


def write_table(tool: str, made: str) -> None:
    """Put the table of tools/cuda_kernels/<tool>.py into its page."""
    before, rest = PAGES[tool].read_text().split(_begin(tool))
    PAGES[tool].write_text(f"{before}{_begin(tool)}\n{made}\n{END}{rest.split(END, 1)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/cuda/registers.md")
    options = parser.parse_args()
    made = table(read_kernels())
    print(made)
    if options.write:
        write_table("cuda_resources", made)


if __name__ == "__main__":
    main()
