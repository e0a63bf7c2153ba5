"""Compiles every kernel of the triton backend for GPUs that need not be here, and reads what the machine code needs.

`python tools/triton_kernels/compile_triton.py` prints the table of docs/triton_machine_code.md. With --write every row
goes into that page as soon as it is there, and what is there already, made by the same kernels, is not compiled again.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import itertools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from deltaconv_kernels.testing import NAMED_SHAPES, Shape, make_case
from deltaconv_kernels.triton import launch
from deltaconv_kernels.triton.configurations import Configuration, Key, configuration, register_bound

ARCHITECTURES = (80, 90, 100)
NVIDIA_OPTIONS = ("maxnreg",)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DOCUMENT = Path(__file__).parents[2] / "docs" / "triton_machine_code.md"
KERNELS = ("forward", "pool", "gate", "pooled_input", "input", "weight", "weight_sum")
COLUMNS = ("shapes", "C", "K", "dtype", "GPU", *KERNELS, "spilled", "shared", "compiled in")
RULE = ("---", "---:", "---:", "---", "---", *("---:",) * 10)
KERNEL_SOURCES = ("grid.py", "convolution.py", "forward_kernel.py", "backward_kernels.py", "weight_kernels.py")
MARKERS = "<!-- compiled -->\n", "<!-- /compiled -->\n"
TENSOR_CORE_OPCODES = ("HMMA", "HGMMA", "QGMMA", "UTCHMMA", "OMMA")
ATOMIC_OPCODES = ("ATOM", "ATOMG", "ATOMS", "RED", "REDG")
Row = tuple[str, ...]
BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Launch:
    """One kernel launch as the backend would make it: the kernel, its grid, its arguments by name, its options."""

    kernel: JITFunction
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return self.kernel.__name__.removeprefix("pyramid_").removesuffix("_kernel")


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes: registers a thread, bytes of stack or local memory a thread, of shared a CTA."""

    registers: int
    spilled_bytes: int
    shared_bytes: int
    instructions: int
    multiply_adds: int
    tensor_core_instructions: int
    atomics: int
    loads: int


@contextmanager
def recorded_launches(device: str) -> Iterator[list[Launch]]:
    """Nothing runs on a GPU inside: launches are collected, with the tiles that `device` ("sm90") would get."""
    launches: list[Launch] = []

    def record(kernel: JITFunction, *arguments: Any, grid: tuple[int, ...], warmup: bool, **keywords: Any) -> None:
        if warmup:  # compiled before it is launched
            return
        names = [parameter.name for parameter in kernel.params]
        by_name = dict(zip(names, arguments, strict=False))
        by_name |= {name: keywords.pop(name) for name in names if name in keywords}
        launches.append(Launch(kernel, grid, by_name, keywords))

    def tiles_for(C: int, H: int, W: int, K: int, dtype: torch.dtype, *_: Any) -> Configuration:
        return configuration(Key(C, H, W, K, dtype, device))

    with mock.patch.object(JITFunction, "run", record), mock.patch.object(launch, "tiles_for", tiles_for):
        yield launches


def launches_of(shape: Shape, dtype: torch.dtype, architecture: int | str, gate: str = "scaled") -> list[Launch]:
    """The launches of a forward and a backward pass, on tensors without memory."""
    small = make_case(replace(shape, batch=0), dtype, gate=gate, residual=True)
    stages, height, width = len(shape.factors), shape.height, shape.width
    x = torch.empty(shape.batch, height, width, shape.inter, dtype=dtype, device="meta")
    y = torch.empty(shape.batch, height, width, stages * shape.inter // 2, dtype=dtype, device="meta")
    case = replace(small.to("meta"), x=x, residual=y, grad=y)
    with recorded_launches(f"sm{architecture}" if isinstance(architecture, int) else architecture) as launches:
        launch.pyramid_forward(*case.arguments)
        launch.pyramid_backward(*case.backward_arguments, (True, True, True))
    return launches


def target_of(architecture: int | str) -> GPUTarget:
    """90 is NVIDIA's sm_90; "gfx942" one of AMD's with waves of 64 lanes."""
    if isinstance(architecture, str):
        return GPUTarget("hip", architecture, 64)
    return GPUTarget("cuda", architecture, 32)


def compile_launch(launched: Launch, architecture: int | str) -> Any:
    """The compiled kernel, as Triton's launcher would have it: tensors aligned, a missing one fixed, integers free."""
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(launched.kernel.params):
        value = launched.arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            constants[(index,)] = value
            signature[parameter.name] = "constexpr"
            continue
        signature[parameter.name] = type_name(value)
        if isinstance(value, int) and not parameter.do_not_specialize:
            raise ValueError(f"{launched.name}: {parameter.name} would compile anew for values of 1 and of 16")
        if isinstance(value, torch.Tensor):
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(launched.kernel, signature, constants, attributes)
    target, options = target_of(architecture), launched.options
    if target.backend != "cuda":
        options = {name: value for name, value in options.items() if name not in NVIDIA_OPTIONS}
    return triton.compile(source, target=target, options=options)


def type_name(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if abs(value) < 2**31 else "i64"


def resources(compiled: Any) -> Resources:
    """Read from the cubin with the tools that Triton brings."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        Path(cubin.name).write_bytes(compiled.asm["cubin"])
        usage = _output("cuobjdump", "-res-usage", cubin.name)
        code = _output("nvdisasm", "-c", cubin.name)
    used = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    opcodes = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_]+)", code, re.MULTILINE)
    return Resources(
        registers=used["REG"],
        spilled_bytes=used["STACK"] + used["LOCAL"],
        shared_bytes=compiled.metadata.shared,
        instructions=sum(opcode != "NOP" for opcode in opcodes),
        multiply_adds=opcodes.count("FFMA"),
        tensor_core_instructions=sum(opcode in TENSOR_CORE_OPCODES for opcode in opcodes),
        atomics=sum(opcode in ATOMIC_OPCODES for opcode in opcodes),
        loads=opcodes.count("LDG"),
    )


def problems(names: Iterable[str]) -> list[str]:
    """One name for each problem that compiles by itself: a batch does not, nor H and W that the same factors divide."""
    first = {compiled_alike(name)[0] for name in names}
    return [name for name in NAMED_SHAPES if name in first]


def compiled_alike(name: str) -> list[str]:
    """All named shapes whose kernels are those of `name`."""
    kernels = {
        other: (s.inter, s.kernel_size, [(f, s.height % f == 0 and s.width % f == 0) for f in s.factors])
        for other, s in NAMED_SHAPES.items()
    }
    return [other for other in NAMED_SHAPES if kernels[other] == kernels[name]]


def row(name: str, dtype: str, architecture: int) -> Row:
    """Registers and instructions of a problem's kernels; of all together, bytes spilled and shared, and seconds."""
    shape = NAMED_SHAPES[name]
    start = processor_seconds()
    compiled = {
        launched.name.removeprefix("backward_"): compile_launch(launched, architecture)
        for launched in launches_of(shape, DTYPES[dtype], architecture)
    }
    seconds = processor_seconds() - start
    used = {kernel: resources(compiled[kernel]) for kernel in KERNELS}
    return (
        ", ".join(compiled_alike(name)),
        str(shape.inter),
        str(shape.kernel_size),
        dtype,
        f"sm_{architecture}",
        *(f"{of.registers} / {of.instructions}" for of in used.values()),
        str(sum(of.spilled_bytes for of in used.values())),
        str(max(of.shared_bytes for of in used.values())),
        f"{seconds:.0f} s",
    )


def processor_seconds() -> float:
    """Of this process and of those that it started: ptxas is one."""
    return sum(os.times()[:4])


def key(row: Row) -> tuple[str, str, str]:
    return row[0], row[3], row[4]


def kept_rows(page: str) -> list[Row]:
    """The page's rows, if the same kernels and the same Triton made them."""
    source, _, lines = page.split(MARKERS[0])[1].split(MARKERS[1])[0].partition("\n\n")
    if made_by() not in source:
        return []
    return [tuple(cell.strip() for cell in line.strip("| ").split("|")) for line in lines.splitlines()[2:]]


def merged(old: list[Row], new: list[Row]) -> list[Row]:
    """In the order of GPUs, shapes and types; a new row takes an old one's place."""
    names, types, targets = list(NAMED_SHAPES), list(DTYPES), [f"sm_{number}" for number in ARCHITECTURES]
    by_key = {key(row): row for row in (*old, *new)}
    return sorted(
        by_key.values(),
        key=lambda row: (targets.index(row[4]), names.index(row[0].split(",")[0]), types.index(row[3])),
    )


def made_by() -> str:
    """The compiler, and a hash of what it is given: the kernels, and what is chosen for the named shapes."""
    folder = Path(launch.__file__).parent
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in KERNEL_SOURCES))
    for shape, dtype, architecture in itertools.product(NAMED_SHAPES.values(), DTYPES.values(), ARCHITECTURES):
        K = shape.kernel_size
        tiles = configuration(Key(shape.inter, shape.height, shape.width, K, dtype, f"sm{architecture}"))
        bounds = [register_bound(tile, K, even=True) for tile in (tiles.forward, tiles.backward)]
        digest.update(f"{tiles} {bounds}".encode())
    return f"Triton {triton.__version__}, kernels {digest.hexdigest()[:8]}"


def write_document(new: list[Row]) -> None:
    """Put the rows between the page's markers, with those that were there and still hold."""
    page = DOCUMENT.read_text()
    before, rest = page.split(MARKERS[0])
    _, after = rest.split(MARKERS[1])
    lines = [line(row) for row in (COLUMNS, RULE, *merged(kept_rows(page), new))]
    command = "python tools/triton_kernels/compile_triton.py --write"
    source = f"`{command}`, in steps until {datetime.date.today()}, {made_by()}:\n\n"
    beside = DOCUMENT.with_suffix(".new")
    beside.write_text(before + MARKERS[0] + source + "\n".join(lines) + "\n" + MARKERS[1] + after)
    beside.replace(DOCUMENT)


def line(row: Row) -> str:
    return "| " + " | ".join(row) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=NAMED_SHAPES, default=list(NAMED_SHAPES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    parser.add_argument("--architectures", nargs="+", type=int, default=list(ARCHITECTURES))
    parser.add_argument("--write", action="store_true", help=f"into the table in {DOCUMENT.name}, row by row")
    arguments = parser.parse_args()
    triton.knobs.compilation.always_compile = True  # what Triton keeps on disk would make the time of compiling nothing
    done = {key(row) for row in kept_rows(DOCUMENT.read_text())} if arguments.write else set()
    print(f"{line(COLUMNS)}\n{line(RULE)}", flush=True)
    for architecture, name, dtype in itertools.product(
        arguments.architectures, problems(arguments.shapes), arguments.dtypes
    ):
        if (", ".join(compiled_alike(name)), dtype, f"sm_{architecture}") in done:
            continue
        compiled = row(name, dtype, architecture)
        print(line(compiled), flush=True)
        if arguments.write:
            write_document([compiled])


def _output(tool: str, *arguments: str) -> str:
    return subprocess.run([BINARIES / tool, *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
