"""Compiles every kernel of the triton backend for GPUs that need not be here, and reads what the machine code needs.

`python tools/compile_triton.py` prints the table of docs/triton.md; with --write it goes into that page.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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

ARCHITECTURES = (80, 90, 100)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DOCUMENT = Path(__file__).parents[1] / "docs" / "triton.md"
MARKERS = "<!-- compiled -->\n", "<!-- /compiled -->\n"
TENSOR_CORE_OPCODES = ("HMMA", "HGMMA", "QGMMA", "UTCHMMA", "OMMA")
ATOMIC_OPCODES = ("ATOM", "ATOMG", "ATOMS", "RED", "REDG")
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
        names = [parameter.name for parameter in kernel.params]
        by_name = dict(zip(names, arguments, strict=False))
        by_name |= {name: keywords.pop(name) for name in names if name in keywords}
        launches.append(Launch(kernel, grid, by_name, keywords))

    with mock.patch.object(JITFunction, "run", record), mock.patch.object(launch, "device_kind", return_value=device):
        yield launches


def launches_of(shape: Shape, dtype: torch.dtype, architecture: int, gate: str = "scaled") -> list[Launch]:
    """The launches of a forward and a backward pass, on tensors without memory."""
    small = make_case(replace(shape, batch=0), dtype, gate=gate, residual=True)
    stages, height, width = len(shape.factors), shape.height, shape.width
    x = torch.empty(shape.batch, height, width, shape.inter, dtype=dtype, device="meta")
    y = torch.empty(shape.batch, height, width, stages * shape.inter // 2, dtype=dtype, device="meta")
    case = replace(small.to("meta"), x=x, residual=y, grad=y)
    with recorded_launches(f"sm{architecture}") as launches:
        launch.pyramid_forward(*case.arguments)
        launch.pyramid_backward(*case.backward_arguments, (True, True, True))
    return launches


def compile_launch(launched: Launch, architecture: int) -> Any:
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
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=launched.options)


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


def table(names: list[str], dtypes: list[torch.dtype], architectures: list[int]) -> Iterator[str]:
    """Lines of Markdown, one a kernel, each as soon as it is compiled."""
    yield "| shape | dtype | GPU | kernel | registers | spilled bytes | shared bytes | instructions |"
    yield "| --- | --- | --- | --- | ---: | ---: | ---: | ---: |"
    for name, dtype, architecture in itertools.product(names, dtypes, architectures):
        for launched in launches_of(NAMED_SHAPES[name], dtype, architecture):
            used = resources(compile_launch(launched, architecture))
            what = (name, str(dtype).removeprefix("torch."), f"sm_{architecture}", launched.name)
            numbers = (used.registers, used.spilled_bytes, used.shared_bytes, used.instructions)
            yield "| " + " | ".join(map(str, (*what, *numbers))) + " |"


def write_document(lines: list[str], command: str) -> None:
    """Put the table between the page's markers, with what made it."""
    page = DOCUMENT.read_text()
    before, rest = page.split(MARKERS[0])
    _, after = rest.split(MARKERS[1])
    source = f"{datetime.date.today()}, Triton {triton.__version__}, `{command}`:\n\n"
    beside = DOCUMENT.with_suffix(".new")
    beside.write_text(before + MARKERS[0] + source + "\n".join(lines) + "\n" + MARKERS[1] + after)
    beside.replace(DOCUMENT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=NAMED_SHAPES, default=list(NAMED_SHAPES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--architectures", nargs="+", type=int, default=list(ARCHITECTURES))
    parser.add_argument("--write", action="store_true", help=f"replace the table in {DOCUMENT.name}")
    arguments = parser.parse_args()
    dtypes = [DTYPES[name] for name in arguments.dtypes]
    lines = []
    for line in table(arguments.shapes, dtypes, arguments.architectures):
        print(line, flush=True)
        lines.append(line)
    if arguments.write:
        write_document(lines, " ".join(["python", "tools/compile_triton.py", *sys.argv[1:]]))


def _output(tool: str, *arguments: str) -> str:
    return subprocess.run([BINARIES / tool, *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
